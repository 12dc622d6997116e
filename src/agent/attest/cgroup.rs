//! Units and containers, from the text of `/proc/<pid>/cgroup`.
//!
//! Owns: [`Place`]: what systemd, a container engine or a kubelet named the control group that a process is in.
//! Never: believes a name below a point from which on somebody other than the system names groups: a user's own service
//! manager, or what runs inside a unit or a container.
//! Read next: `../attest.rs`.

use super::is_hex;

/// The most lines that are looked at: a kernel has a dozen hierarchies.
const LINES_MAX: usize = 64;

/// Where a process runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// The system's unit.
    pub unit: Option<String>,
    /// The outermost container.
    pub container: Option<Container>,
    /// The pod's uid, as Kubernetes writes it.
    pub pod: Option<String>,
}

/// A container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Container {
    /// What runs it.
    pub engine: Engine,
    /// Its whole id.
    pub id: String,
}

/// What runs containers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// containerd, under Kubernetes or nerdctl.
    Containerd,
    /// CRI-O.
    Crio,
    /// Docker.
    Docker,
    /// A kubelet that does not say.
    Kubernetes,
    /// Podman.
    Podman,
}

impl Container {
    /// The selector's name.
    pub const fn selector(&self) -> &'static str {
        match self.engine {
            Engine::Containerd => "containerd:id",
            Engine::Crio => "crio:id",
            Engine::Docker => "docker:id",
            Engine::Kubernetes => "k8s:container-id",
            Engine::Podman => "podman:id",
        }
    }
}

/// What a `cgroup` file says. Where hierarchies contradict each other, what they do not agree on is not said.
pub fn place_of(text: &str) -> Place {
    let hierarchy = |line: &&str| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        Some((controllers.to_owned(), path.to_owned()))
    };
    let mut lines: Vec<(String, String)> = Vec::new();
    for line in text.lines().take(LINES_MAX) {
        match hierarchy(&line) {
            Some(parsed) => lines.push(parsed),
            None => return Place::default(),
        }
    }
    // systemd names groups in its own hierarchy, or in the unified one where that is the only one. A group at the root
    // says nothing, and the unified one is at the root where it is not in use.
    let of = |wanted: &str| lines.iter().find(|(controllers, _)| controllers == wanted).map(|(_, path)| path.as_str());
    let named = of("name=systemd").or_else(|| of("")).filter(|path| *path != "/");
    let unit = named.and_then(unit_of);
    let places: Vec<(Option<Container>, Option<String>)> =
        lines.iter().filter(|(_, path)| path != "/").map(|(_, path)| container_of(path)).collect();
    // Containers are in all hierarchies or only in those that their engine uses: one that is named must be the only one.
    let container = agreed(places.iter().filter_map(|(container, _)| container.as_ref()));
    let pod = agreed(places.iter().filter_map(|(_, pod)| pod.as_ref()));
    Place { unit, container, pod }
}

/// The value that all name, if they do.
fn agreed<'a, T: Clone + PartialEq + 'a>(mut named: impl Iterator<Item = &'a T>) -> Option<T> {
    let first = named.next()?;
    named.all(|other| other == first).then(|| first.clone())
}

/// The unit of a group's path: the first that is no slice. What is below it was named by the unit itself.
fn unit_of(path: &str) -> Option<String> {
    let name = parts(path)?.find(|part| !part.ends_with(".slice"))?;
    // systemd escapes what the kernel would take for a file of its own.
    let name = name.strip_prefix('_').unwrap_or(name);
    is_unit(name).then(|| name.to_owned())
}

/// Whether a unit that processes can be in has such a name.
pub(super) fn is_unit(name: &str) -> bool {
    let Some((stem, kind)) = name.rsplit_once('.') else { return false };
    let fine = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let whole = !stem.is_empty() && name.len() <= 255 && name.chars().all(fine);
    whole && matches!(kind, "service" | "scope" | "socket" | "mount" | "swap")
}

/// The outermost container and the pod of a group's path.
fn container_of(path: &str) -> (Option<Container>, Option<String>) {
    let (mut pod, mut parent) = (None, "");
    let Some(parts) = parts(path) else { return (None, None) };
    for part in parts {
        // From here on a user names groups as he likes.
        if part.starts_with("user@") {
            return (None, None);
        }
        if let Some((slice, engine, id)) = parts_by_colon(part) {
            return (container(engine, id), pod_of(slice).or(pod));
        }
        let scope = part.strip_suffix(".scope").unwrap_or(part);
        if let Some((engine, id)) = scope.split_once('-') {
            if let Some(found) = container(engine, id) {
                return (Some(found), pod);
            }
        }
        if is_hex(part, 64) {
            let engine = match parent {
                "docker" => Some(Engine::Docker),
                _ if pod.is_some() => Some(Engine::Kubernetes),
                _ => None,
            };
            return (engine.map(|engine| Container { engine, id: part.to_owned() }), pod);
        }
        if let Some(uid) = pod_of(part) {
            pod = Some(uid);
        } else if !may_lead_to_a_container(part) {
            return (None, None);
        }
        parent = part;
    }
    (None, pod)
}

/// Groups that the system makes, below which an engine makes those of containers.
fn may_lead_to_a_container(part: &str) -> bool {
    let kubernetes = ["kubepods", "besteffort", "burstable", "guaranteed"];
    part.ends_with(".slice")
        || kubernetes.contains(&part)
        || matches!(part, "containerd.service" | "docker" | "docker.service" | "kubelet.service" | "libpod_parent")
}

/// What a container's group is named after an engine and the id.
fn container(engine: &str, id: &str) -> Option<Container> {
    let engine = match engine {
        "cri-containerd" | "nerdctl" | "containerd" => Engine::Containerd,
        "crio" => Engine::Crio,
        "docker" => Engine::Docker,
        "libpod" => Engine::Podman,
        // `cri-containerd-<id>` is cut at its first hyphen.
        "cri" => return container("cri-containerd", id.strip_prefix("containerd-")?),
        _ => return None,
    };
    is_hex(id, 64).then(|| Container { engine, id: id.to_owned() })
}

/// `slice:engine:id`, as a runtime leaves it that takes systemd's form of a name for a path.
fn parts_by_colon(part: &str) -> Option<(&str, &str, &str)> {
    let mut parts = part.split(':');
    let three = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(three)
}

/// The uid of a pod, in either of the two forms that a kubelet names its group in.
fn pod_of(part: &str) -> Option<String> {
    let slice = part.strip_suffix(".slice");
    let uid = match slice {
        Some(slice) if slice.starts_with("kubepods") => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        Some(_) => return None,
        None => part.strip_prefix("pod")?.to_owned(),
    };
    is_pod(&uid).then_some(uid)
}

/// Whether it is a pod's uid, in either of the two forms that Kubernetes has.
pub(super) fn is_pod(uid: &str) -> bool {
    is_hex(&uid.replace('-', ""), 32)
}

/// The names of a path from the root on; none where it leaves what is seen here.
fn parts(path: &str) -> Option<impl Iterator<Item = &str>> {
    let below = path.strip_prefix('/')?;
    let outside = below.split('/').any(|part| part == ".." || part == ".");
    (!outside).then(|| below.split('/').filter(|part| !part.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4c7d2a9b8e6f1d0c5a4b3e2f1a0d9c8b7a6f5e4d3c2b1a0f9e8d7c6b5a4f3e";
    const OTHER: &str = "0000000000000000000000000000000000000000000000000000000000000001";
    const POD: &str = "7b6f8f4e-9d0a-4c1e-8b7a-2f3d4e5c6b7a";

    /// What is said of a text: unit, container as selector and id, pod.
    #[track_caller]
    fn check(text: &str, unit: Option<&str>, container: Option<(&str, &str)>, pod: Option<&str>) {
        let text = text.replace("$ID", ID).replace("$OTHER", OTHER).replace("$POD_", &POD.replace('-', "_"));
        let place = place_of(&text.replace("$POD", POD));
        assert_eq!(place.unit.as_deref(), unit.map(|unit| unit.replace("$ID", ID)).as_deref(), "{text}");
        let found = place.container.as_ref().map(|found| (found.selector(), found.id.as_str()));
        assert_eq!(found, container, "{text}");
        assert_eq!(place.pod.as_deref(), pod, "{text}");
    }

    #[test]
    fn units_as_systemd_names_their_groups() {
        // The unified hierarchy of Debian 12, Fedora, Ubuntu 24.04.
        check("0::/system.slice/meter.service\n", Some("meter.service"), None, None);
        check("0::/system.slice/system-getty.slice/getty@tty1.service\n", Some("getty@tty1.service"), None, None);
        check("0::/init.scope\n", Some("init.scope"), None, None);
        check("0::/system.slice/meter.service/worker\n", Some("meter.service"), None, None);
        check("0::/system.slice/_cpu.service\n", Some("cpu.service"), None, None);
        check("0::/system.slice/dev-hda\\x2d1.swap\n", Some("dev-hda\\x2d1.swap"), None, None);
        check("0::/user.slice/user-1000.slice/session-3.scope\n", Some("session-3.scope"), None, None);
        // A user's manager names what is below it: only the manager itself is attested.
        let own = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/meter.service\n";
        check(own, Some("user@1000.service"), None, None);
        // Hybrid and legacy hierarchies, as on Debian 9 and CentOS 7.
        let hybrid = "12:pids:/system.slice/cron.service\n5:cpu,cpuacct:/\n1:name=systemd:/system.slice/cron.service\n0::/system.slice/cron.service\n";
        check(hybrid, Some("cron.service"), None, None);
        check(
            "4:memory:/other/meter.service\n1:name=systemd:/system.slice/cron.service\n",
            Some("cron.service"),
            None,
            None,
        );
    }

    #[test]
    fn containers_as_their_engines_name_their_groups() {
        let docker = Some(("docker:id", ID));
        check("0::/system.slice/docker-$ID.scope\n", Some("docker-$ID.scope"), docker, None);
        check("0::/docker/$ID\n", None, docker, None);
        let legacy = "11:memory:/docker/$ID\n10:pids:/docker/$ID\n1:name=systemd:/docker/$ID\n0::/system.slice/containerd.service\n";
        check(legacy, None, docker, None);
        check("0::/system.slice/docker-$ID.scope/docker/$OTHER\n", Some("docker-$ID.scope"), docker, None);
        let podman = Some(("podman:id", ID));
        check("0::/machine.slice/libpod-$ID.scope\n", Some("libpod-$ID.scope"), podman, None);
        check("0::/machine.slice/libpod-$ID.scope/container\n", Some("libpod-$ID.scope"), podman, None);
        check("0::/libpod_parent/libpod-$ID\n", None, podman, None);
        let pod =
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$POD_.slice/cri-containerd-$ID.scope\n";
        check(pod, Some("cri-containerd-$ID.scope"), Some(("containerd:id", ID)), Some(POD));
        let pod = "0::/kubepods.slice/kubepods-pod$POD_.slice/crio-$ID.scope\n";
        check(pod, Some("crio-$ID.scope"), Some(("crio:id", ID)), Some(POD));
        check("5:cpu:/kubepods/besteffort/pod$POD/$ID\n", None, Some(("k8s:container-id", ID)), Some(POD));
        check("5:cpu:/kubepods/pod$POD/$ID\n", None, Some(("k8s:container-id", ID)), Some(POD));
        let colon = "0::/system.slice/containerd.service/kubepods-burstable-pod$POD_.slice:cri-containerd:$ID\n";
        check(colon, Some("containerd.service"), Some(("containerd:id", ID)), Some(POD));
        check("0::/system.slice/nerdctl-$ID.scope\n", Some("nerdctl-$ID.scope"), Some(("containerd:id", ID)), None);
    }

    #[test]
    fn what_somebody_else_may_have_named_is_not_believed() {
        // A rootless engine, or whoever writes below his own manager.
        let rootless = "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-$ID.scope/container\n";
        check(rootless, Some("user@1000.service"), None, None);
        // A unit with groups of its own.
        check("0::/system.slice/meter.service/docker-$ID.scope\n", Some("meter.service"), None, None);
        check("0::/system.slice/meter.service/docker/$ID\n", Some("meter.service"), None, None);
        // Hierarchies that do not agree.
        check("5:cpu:/docker/$ID\n4:memory:/docker/$OTHER\n", None, None, None);
        // Outside of what the agent's own control group namespace holds.
        check("0::/../../system.slice/meter.service\n", None, None, None);
        check("0::/..\n", None, None, None);
        check("0::/\n", None, None, None);
        check("9:name=systemd:/\n4:memory:/process_api/x\n0::/\n", None, None, None);
        // An id that is cut, or too long, or not one.
        check("0::/docker/abcdef\n", None, None, None);
        check("0::/docker/$ID$ID\n", None, None, None);
        check(&format!("0::/docker/{}\n", ID.to_uppercase()), None, None, None);
        check("0::/kubepods/podx/$ID\n", None, None, None);
        check("0::/lxc.payload.one/system.slice/meter.service\n", None, None, None);
        for broken in
            ["", "\n", "nonsense", "0:", "0::relative/meter.service\n", "0::/system.slice/a b.service\n", "::::\n"]
        {
            check(broken, None, None, None);
        }
    }
}
