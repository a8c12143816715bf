//! The dashboard in a browser, and the management API under requests that a fuzzing client makes
//! from its own description.

use crate::support::http::admin;
use crate::support::{Broker, Temporary, eventually};
use std::process::{Command, Stdio};

#[test]
fn the_dashboard_works_in_a_browser() {
    let users = Temporary::named("users");
    let add = Command::new(env!("CARGO_BIN_EXE_ringmq"))
        .args(["admin", "user", "add", "ann", "--role", "admin", "--batch", "secret", "--file"])
        .arg(&*users)
        .status()
        .unwrap();
    assert!(add.success());
    let broker = Broker::start(&[
        "admin.bind=127.0.0.1:0",
        &format!("admin.users={}", users.display()),
        "listeners.1.name=web",
        "listeners.1.type=ws",
        "listeners.1.bind=127.0.0.1:0",
    ]);
    let (host, port) = (broker.address().ip().to_string(), broker.address().port().to_string());
    let mut device = Command::new("mosquitto_sub")
        .args(["-h", &host, "-p", &port, "-i", "meter-7", "-t", "plant/#", "-q", "1", "-V", "5"])
        .stdout(Stdio::null())
        .spawn()
        .expect("mosquitto_sub: run scripts/test, which installs it");
    eventually("the device is connected", || broker.log().contains("client_id=\"meter-7\""));
    let address = format!("http://{}", admin(&broker));
    let pictures = std::env::var("RINGMQ_TEST_PICTURES").unwrap_or_default();
    let shown = crate::python("dashboard.py", &[&address, &pictures, "meter-7", "ann", "secret"]);
    let _ = device.kill();
    let _ = device.wait();
    println!("{shown}");
    assert!(shown.contains("ok: the client is disconnected"), "{shown}");
}

#[test]
fn the_management_api_keeps_what_its_description_promises() {
    let broker = Broker::start(&["admin.bind=127.0.0.1:0"]);
    let examples = std::env::var("RINGMQ_TEST_API_EXAMPLES").unwrap_or_else(|_| "8".to_owned());
    let address = format!("http://{}", admin(&broker));
    let told = crate::python("fuzz_api.py", &[&address, &examples]);
    assert!(told.lines().count() > 20, "{told}");
}
