//! Sequences of messages of a feed, as the fuzz targets `feed` and `announced` run them, from a seeded generator.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::{apply, cases, edits};
use crate::hostile_feed::{contents, sequence, signed, History};

static HISTORY: LazyLock<History> = LazyLock::new(History::new);
static CONTENTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| contents(&HISTORY));

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn any_sequence_of_messages_leads_on_and_never_back(script in prop::collection::vec(any::<u8>(), 0..240)) {
        sequence(&HISTORY, &script);
    }

    #[test]
    fn what_is_signed_may_hold_anything(which in any::<prop::sample::Index>(), edits in edits()) {
        let content = &CONTENTS[which.index(CONTENTS.len())];
        signed(&HISTORY, content);
        signed(&HISTORY, &apply(content, &edits));
    }
}
