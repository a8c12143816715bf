//! Where this process runs: on the host or in a container, and whether it sees the host's network
//! or one of its own. Owns the signs by which this is recognized, all of which can be read without
//! privilege.

use super::facts::Tree;

/// The container engine and the kind of network.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Environment {
    /// The container engine that runs this process, if any.
    pub container: Option<ContainerEngine>,
    /// The network that this process sees.
    pub network: NetworkView,
}

/// A container engine, as recognized by a sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContainerEngine {
    /// Docker.
    Docker,
    /// Podman or CRI-O.
    Podman,
    /// Kubernetes.
    Kubernetes,
    /// Amazon ECS.
    Ecs,
    /// LXC or systemd-nspawn.
    System,
    /// Another engine.
    Other,
}

impl Environment {
    /// The program to which a fix for a container is given.
    pub(super) fn program(&self) -> &'static str {
        if self.container == Some(ContainerEngine::Podman) { "podman" } else { "docker" }
    }
}

impl ContainerEngine {
    /// The name of the engine.
    pub fn name(self) -> &'static str {
        match self {
            ContainerEngine::Docker => "Docker",
            ContainerEngine::Podman => "Podman",
            ContainerEngine::Kubernetes => "Kubernetes",
            ContainerEngine::Ecs => "ECS",
            ContainerEngine::System => "LXC or nspawn",
            ContainerEngine::Other => "a container",
        }
    }
}

/// The network that a process sees.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum NetworkView {
    /// The host's own interfaces.
    #[default]
    Host,
    /// A namespace behind a bridge, whose interfaces are one end of a pair.
    Bridge,
    /// Loopback only.
    Loopback,
    /// `/sys` is not there, or shows another namespace's interfaces.
    Unseen,
}

impl NetworkView {
    /// The kind of network as one word.
    pub fn word(self) -> &'static str {
        match self {
            NetworkView::Host => "host",
            NetworkView::Bridge => "bridge",
            NetworkView::Loopback => "loopback only",
            NetworkView::Unseen => "unseen",
        }
    }
}

pub(super) fn read(tree: &Tree<'_>) -> Environment {
    Environment { container: engine(tree), network: network(tree) }
}

fn engine(tree: &Tree<'_>) -> Option<ContainerEngine> {
    let environment = tree.text("proc/self/environ").unwrap_or_default();
    let variable = |name: &str| environment.split('\0').find_map(|v| v.strip_prefix(name));
    let groups = tree.text("proc/self/cgroup").unwrap_or_default();
    // The overlay of the root directory names the engine's storage even where a cgroup namespace
    // hides the group.
    let mounts = tree.text("proc/self/mountinfo").unwrap_or_default();
    let is_root = |line: &&str| line.split(' ').nth(4) == Some("/");
    let root = mounts.lines().find(is_root).unwrap_or("");
    if variable("ECS_CONTAINER_METADATA_URI").is_some() || groups.contains("/ecs/") {
        return Some(ContainerEngine::Ecs);
    }
    if variable("KUBERNETES_SERVICE_HOST=").is_some() || groups.contains("kubepods") {
        return Some(ContainerEngine::Kubernetes);
    }
    if tree.exists("run/.containerenv") || groups.contains("libpod") {
        return Some(ContainerEngine::Podman);
    }
    if tree.exists(".dockerenv") || groups.contains("docker") || root.contains("/docker/") {
        return Some(ContainerEngine::Docker);
    }
    match variable("container=") {
        Some("lxc" | "systemd-nspawn") => Some(ContainerEngine::System),
        Some("docker") => Some(ContainerEngine::Docker),
        Some("podman" | "oci") => Some(ContainerEngine::Podman),
        Some(_) => Some(ContainerEngine::Other),
        None if groups.contains("/lxc/") => Some(ContainerEngine::System),
        None if root.contains("containerd") => Some(ContainerEngine::Other),
        None => None,
    }
}

/// The peer of a veth interface has its index in another namespace, so `iflink` differs from
/// `ifindex` and there is no device behind it. The host has interfaces that are their own end.
/// `/proc/net` always shows the namespace of the process; `/sys` shows that of the process that
/// mounted it.
fn network(tree: &Tree<'_>) -> NetworkView {
    let table = tree.text("proc/net/dev");
    let ours: Option<Vec<&str>> = table
        .as_deref()
        .map(|text| text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect());
    if ours.as_ref().is_some_and(|names| names.iter().all(|name| *name == "lo")) {
        return NetworkView::Loopback;
    }
    let Ok(entries) = std::fs::read_dir(tree.path("sys/class/net")) else {
        return NetworkView::Unseen;
    };
    let mut pairs = 0;
    let mut own = 0;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let read = |file: &str| tree.number(&format!("sys/class/net/{name}/{file}"));
        if name == "lo" || ours.as_ref().is_some_and(|ours| !ours.contains(&name.as_str())) {
            continue;
        }
        let device = tree.exists(&format!("sys/class/net/{name}/device"));
        match (read("ifindex"), read("iflink")) {
            (Some(index), Some(link)) if link != index && link != 0 && !device => pairs += 1,
            // The stubs of tunnels (tunl0, sit0) are in every namespace and carry nothing.
            (_, Some(0)) => {}
            _ => own += 1,
        }
    }
    match (own, pairs) {
        (0, 0) if ours.is_some() => NetworkView::Unseen,
        (0, 0) => NetworkView::Loopback,
        (0, _) => NetworkView::Bridge,
        _ => NetworkView::Host,
    }
}
