"""Runs tlsfuzzer against RingMQ and against bare rustls, and compares probe by probe.

    tlsfuzzer.py DIRECTORY [SCRIPT]...     DIRECTORY holds tlsfuzzer; all scripts, or these

A script whose first probe, `sanity`, fails at bare rustls needs something that rustls does not have, such
as RSA key exchange, CBC or finite-field groups: it does not apply, though its probes are compared. Ends
with 1 when a probe fails at RingMQ in each of three runs and not at bare rustls, other than those of
`KNOWN`.
"""

import concurrent.futures
import pathlib
import re
import subprocess
import sys

from servers import Servers

HERE = pathlib.Path(__file__).resolve().parent
MOST = "60"
GCM = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
ECDSA = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
CHACHA = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"
TLS13 = "TLS_AES_128_GCM_SHA256"
# What is run otherwise than `usual` says: a server, and arguments.
ARGUMENTS = {
    "test-conversation.py": [("rsa", ["-d"]), ("ecdsa", ["-d"]), ("rsa", ["-C", CHACHA])],
    "test-cve-2016-7054.py": [("rsa", ["-C", CHACHA])],
    "test-ecdsa-sig-flexibility.py": [("ecdsa", ["-C", ECDSA])],
    "test-fuzzed-ciphertext.py": [("rsa", ["-C", GCM, "-n", MOST]), ("rsa", ["-C", CHACHA, "-n", MOST])],
    "test-signature-algorithms.py": [("rsa", ["-n", MOST]), ("ecdsa", ["-n", MOST])],
    "test-tls13-certificate-compression.py": [("rsa", ["-n", MOST])],
    "test-tls13-conversation.py": [("rsa", []), ("ecdsa", [])],
    "test-tls13-count-tickets.py": [("rsa", ["-t", "1"])],
    "test-tls13-ecdsa-in-certificate-verify.py": [("mutual-ecdsa", ["-n", MOST])],
    "test-tls13-post-handshake-auth.py": [("mutual", [])],
    "test-tls13-signature-algorithms.py": [("rsa", ["-n", MOST]), ("ecdsa", ["-n", MOST])],
    "test-tls13-symetric-ciphers.py": [("rsa", ["-n", "200"])],
}
# What may fail at RingMQ alone, a pattern of names for a pattern of scripts, and why.
KNOWN = [
    (r"test-(tls13-)?lengths", r"'.*len.*'", "it wants as much back as it sends, an echo"),
    (r"test-tls13-zero-length-data", r"'zero-length app data'", "its parts of a request are no MQTT"),
    # Given record by record rustls sends no alert for it; given many at once it does.
    (r"test-tls13-client-certificate-compression", r"'fuzzing of .* bytes'",
     "a message of more than 64 KiB ends the connection without an alert"),
]


def usual(source):
    """Which server and arguments make a script apply: ephemeral keys, no more than some probes."""
    letters = re.search(r'getopt\.getopt\(\w+,\s*"([^"]*)"', source)
    letters = letters[1] if letters else ""
    given = []
    if "d" in letters and '" -d ' in source:
        given += ["-d"]
    elif "C:" in letters:
        given += ["-C", TLS13 if "TLS_AES_128_GCM_SHA256" in source else GCM]
    if "n:" in letters:
        given += ["-n", MOST]
    return "mutual" if "k:" in letters and "c:" in letters else "rsa", given


class Outcome:
    """What a script said: how many probes passed, which failed, or why there were none."""

    def __init__(self, directory, script, port, arguments):
        command = [sys.executable, HERE / "tlsfuzzer_script.py", directory, script]
        command += ["-h", "127.0.0.1", "-p", str(port)] + arguments
        self.passed, self.failed, self.broken = 0, set(), ""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
        except subprocess.TimeoutExpired:
            self.broken = "it did not end in 20 minutes"
            return
        out = done.stdout + done.stderr
        passed = re.search(r"^PASS: (\d+)", out, re.M)
        if not passed:
            self.broken = (out.strip().splitlines() or ["it said nothing"])[-1][:80]
            return
        self.passed = int(passed[1])
        if "FAILED:\n" in out:
            names = out.rpartition("FAILED:\n")[2]
            self.failed = set(re.findall(r"^\t(['\"].*['\"])$", names, re.M))


def known(script, name):
    for scripts, names, why in KNOWN:
        if re.match(scripts, script) and re.fullmatch(names, name):
            return why
    return None


class Job:
    def __init__(self, servers, directory, script, kind, arguments):
        self.script, self.kind, self.arguments = script, kind, arguments
        at = "mutual" if kind == "mutual-ecdsa" else kind
        client = {"mutual": "client", "mutual-ecdsa": "client-ecdsa"}.get(kind)
        pair = servers.pair(client) if client else None
        more = ["-c", pair[0], "-k", pair[1]] if pair else []
        ask = lambda port, names=(): Outcome(directory, script, port, more + arguments + list(names))
        self.bare, self.ours = ask(servers.bare[at]), ask(servers.port[at])
        self.worse = self.ours.failed - self.bare.failed
        self.better = self.bare.failed - self.ours.failed
        # Chance, or a busy machine: it counts what fails each time.
        for _ in range(2):
            if not self.worse:
                break
            names = sorted(name[1:-1] for name in self.worse)
            bare, ours = ask(servers.bare[at], names), ask(servers.port[at], names)
            self.worse &= ours.failed - bare.failed

    def applies(self):
        return not self.bare.broken and "'sanity'" not in self.bare.failed


def main():
    directory, chosen = sys.argv[1], sys.argv[2:]
    scripts = sorted(path.name for path in pathlib.Path(directory, "scripts").glob("test-*.py"))
    wanted = []
    for script in chosen or scripts:
        module = script.removesuffix(".py").replace("-", "_") + ".py"
        source = pathlib.Path(directory, "tlsfuzzer/_apps", module).read_text()
        wanted += [(script, *one) for one in ARGUMENTS.get(script, [usual(source)])]
    bad, total = 0, {"apply": 0, "do not": 0, "passed": 0, "failed at both": 0, "better": 0, "known": 0}
    print(f"{'script':48} {'server':12} {'passed':>6} {'both':>5} {'better':>6} {'worse':>5}  (failed probes)")
    with Servers() as servers, concurrent.futures.ThreadPoolExecutor(4) as pool:
        for job in pool.map(lambda one: Job(servers, directory, *one), wanted):
            ours, short = job.ours, job.script.removeprefix("test-").removesuffix(".py")
            both = len(ours.failed & job.bare.failed)
            note = "" if job.applies() else "  does not apply: " + (job.bare.broken or "sanity fails at bare rustls")
            counts = f"{ours.passed:6} {both:5} {len(job.better):6} {len(job.worse):5}"
            print(f"{short[:48]:48} {job.kind:12} {counts}{note}", flush=True)
            total["apply" if job.applies() else "do not"] += 1
            total["passed"] += ours.passed
            total["failed at both"] += both
            total["better"] += len(job.better)
            if ours.broken and not job.bare.broken:
                print(f"   WORSE: {ours.broken}")
                bad += 1
            reasons = {name: known(job.script, name) for name in sorted(job.worse)}
            for why in sorted({why for why in reasons.values() if why}):
                count = sum(1 for one in reasons.values() if one == why)
                total["known"] += count
                print(f"   {count} only here: {why}", flush=True)
            for name in (name for name, why in reasons.items() if not why):
                bad += 1
                print(f"   WORSE: {name}", flush=True)
            assert servers.is_alive(), "the broker has ended"
    print(f"tlsfuzzer: {total['apply']} runs of scripts apply, {total['do not']} do not; probes: {total['passed']}"
          f" passed, {total['failed at both']} fail at both, {total['better']} only at bare rustls,"
          f" {total['known']} only here with a reason, {bad} only here without one")
    sys.exit(bad > 0)


main()
