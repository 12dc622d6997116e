//! The live level against real processes: needs mosquitto, and a `hardtack` built with the feature `demo`.
