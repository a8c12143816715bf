"""testssl.sh against the broker: prints what it finds worth a word, and fails on what it finds bad."""

import json
import shutil
import subprocess
import sys

from servers import Servers

CHECKS = "--protocols --std --fs --server-preference --server-defaults --vulnerable".split()
# What it says of a laboratory: an authority of its own making, certificates without a place for CRLs.
LABORATORY = ("cert_chain_of_trust", "cert_ocspURL", "cert_crlDistributionPoints", "cert_revocation",
              "cert_trust", "cert_expirationStatus", "cert_notAfter", "OCSP_stapling", "cert_validityPeriod",
              "DNS_CAArecord", "cert_caIssuers", "cert_certificatePolicies_EV", "certificate_transparency")
BAD = ("LOW", "MEDIUM", "HIGH", "CRITICAL")


def main():
    program = shutil.which("testssl") or shutil.which("testssl.sh")
    assert program, "no testssl: apt install testssl.sh"
    bad = 0
    with Servers(bare=False) as servers:
        for kind in ("rsa", "ecdsa"):
            report = servers.directory / f"{kind}.json"
            command = [program, "--quiet", "--color", "0", "--warnings", "batch", "--jsonfile", report]
            command += ["--add-ca", servers.directory / "authority.crt", *CHECKS]
            command += [f"127.0.0.1:{servers.port[kind]}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
            assert report.exists(), done.stdout + done.stderr
            findings = json.loads(report.read_text())
            counts = {}
            for one in findings:
                counts[one["severity"]] = counts.get(one["severity"], 0) + 1
            print(f"testssl, {kind}:", ", ".join(f"{count} {word}" for word, count in sorted(counts.items())))
            for one in findings:
                if one["severity"] in BAD or one["severity"] in ("WARN", "FATAL"):
                    ours = not one["id"].startswith(LABORATORY)
                    bad += ours and one["severity"] in BAD + ("FATAL",)
                    print(f"  {one['severity']:8} {one['id']}: {one['finding'][:120]}{'' if ours else ' (laboratory)'}")
            assert servers.is_alive(), "the broker has ended"
    sys.exit(bad > 0)


main()
