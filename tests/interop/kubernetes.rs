//! What `tuning/` gives to Kubernetes: the manifests, and the chart as helm renders it. They fit
//! the schemas of Kubernetes and each other, and the broker accepts the configuration in them.
//! Nothing here runs in a cluster.

use super::{output, python, python_reading};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// helm with these words: its output, or what it complains about.
#[track_caller]
fn helm(words: &[&str]) -> Result<String, String> {
    let own = project(".venv/bin/helm");
    let program = if own.exists() { own } else { PathBuf::from("helm") };
    let output = Command::new(program).args(words).current_dir(project(".")).output();
    let output = output.expect("helm is there: run scripts/test, which installs it");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[track_caller]
fn rendered(settings: &[&str]) -> String {
    let mut words = vec!["template", "ringmq", "tuning/helm"];
    words.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    helm(&words).expect("it renders")
}

/// Checks manifests; their kinds.
#[track_caller]
fn kinds(manifests: &str) -> String {
    let said = python_reading("kubernetes_manifests.py", &[], manifests);
    let (kinds, configuration) = said.split_once("\n--- configuration\n").expect("both parts");
    let file = std::env::temp_dir().join(super::unique("ringmq-kubernetes") + ".yaml");
    fs::write(&file, configuration).expect("a temporary file");
    let mut checked = Command::new(env!("CARGO_BIN_EXE_ringmq"));
    let checked = checked.args(["--test-config", "--config"]).arg(&file).output();
    let checked = checked.expect("it starts");
    assert!(checked.status.success(), "{configuration}{checked:?}");
    let _ = fs::remove_file(file);
    kinds.to_owned()
}

#[test]
fn the_chart_renders_what_kubernetes_and_the_broker_accept() {
    helm(&["lint", "--strict", "tuning/helm"]).expect("no complaint");
    assert_eq!(kinds(&rendered(&[])), "ConfigMap Deployment Service");
    let all = [
        "allowAnonymous=true",
        "hostNetwork=true",
        "metrics.enabled=true",
        "metrics.podMonitor.enabled=true",
        "metrics.podMonitor.labels.release=prometheus",
        "service.type=LoadBalancer",
        "service.externalTrafficPolicy=Local",
        "service.annotations.a=b",
        "imagePullSecrets[0].name=registry",
        "nodeSelector.ringmq=yes",
        "tolerations[0].operator=Exists",
        "podAnnotations.a=b",
        "podLabels.team=iot",
        "seccomp.type=RuntimeDefault",
    ];
    let manifests = rendered(&all);
    assert_eq!(kinds(&manifests), "ConfigMap Deployment PodMonitor Service");
    for line in ["hostNetwork: true", "externalTrafficPolicy: Local", "release: prometheus"] {
        assert!(manifests.lines().any(|found| found.trim() == line), "{line} in {manifests}");
    }
    assert!(!manifests.contains("localhostProfile"), "{manifests}");
}

/// Clients are refused unless the values say otherwise, and mistakes are named.
#[test]
fn the_chart_lets_nobody_in_unless_asked_and_names_mistakes() {
    let allowed = "RINGMQ_LISTENERS__0__ALLOW_ANONYMOUS";
    assert!(!rendered(&[]).contains(allowed));
    assert!(rendered(&["allowAnonymous=true"]).contains(allowed));
    for (setting, word) in [
        ("allowAnonymous=perhaps", "allowAnonymous"),
        ("alowAnonymous=true", "alowAnonymous"),
        ("metrics.podMonitor.enabled=true", "needs metrics.enabled"),
        ("service.type=Loadbalancer", "service"),
    ] {
        let complaint = helm(&["template", "x", "tuning/helm", "--set", setting]).unwrap_err();
        assert!(complaint.contains(word), "{setting}: {complaint}");
    }
}

#[test]
fn the_manifests_without_helm_fit_too() {
    let read = |file: &str| fs::read_to_string(project("tuning").join(file)).expect("a file");
    let manifests = read("kubernetes.yaml");
    assert_eq!(kinds(&manifests), "ConfigMap DaemonSet Service");
    // With the change that podmonitor.yaml describes.
    let monitor = read("podmonitor.yaml");
    let lines = |after: &str, count: usize| {
        let from = monitor.lines().skip_while(|line| !line.ends_with(after)).take(count);
        from.map(|line| line.replacen("#", " ", 1) + "\n").collect::<String>()
    };
    let (environment, port) = (lines(" env:", 3), lines(" ports:", 2));
    let port = port.lines().last().expect("the port").trim_start();
    let changed = manifests
        .replace(
            "          ports:\n",
            &format!("{environment}          ports:\n            {port}\n"),
        )
        .replace("host: 127.0.0.1, ", "");
    let all = format!("{changed}---\n{monitor}");
    assert_eq!(kinds(&all), "ConfigMap DaemonSet PodMonitor Service");
}

/// Three nodes and three NATS servers, for Kubernetes and for Docker Compose: names and files
/// agree, and broker and nats-server accept what is in them.
#[test]
fn what_there_is_for_a_cluster_fits() {
    let folder = std::env::temp_dir().join(super::unique("ringmq-cluster"));
    fs::create_dir(&folder).expect("a folder");
    let (tuning, to) = (project("tuning"), folder.to_str().expect("a plain path"));
    let arguments = [tuning.to_str().expect("a plain path"), to];
    let said = python("cluster_manifests.py", &arguments);
    assert_eq!(said.trim(), "well");
    let broker = |file: &Path| {
        let mut checked = Command::new(env!("CARGO_BIN_EXE_ringmq"));
        output(checked.args(["--test-config", "--config"]).arg(file));
    };
    broker(&folder.join("ringmq.yaml"));
    broker(&tuning.join("cluster.yaml"));
    let own = project(".venv/bin/nats-server");
    let program = if own.exists() { own } else { PathBuf::from("nats-server") };
    for file in [folder.join("nats-server.conf"), tuning.join("nats-server.conf")] {
        output(Command::new(&program).args(["-t", "-c"]).arg(file));
    }
    let _ = fs::remove_dir_all(folder);
}
