"""Sends requests made from the OpenAPI document, right and wrong ones, and checks that what comes back
is what the document promises, and that no answer is a fault of the server: fuzz_api.py URL EXAMPLES"""

import sys

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (content_type_conformance, response_schema_conformance,
                                               status_code_conformance)

URL, EXAMPLES = sys.argv[1], int(sys.argv[2])
# What these change is what the test that runs this needs; and after wrong logins nobody is let in.
LEFT_OUT = ("/configs/reload", "/log", "/login")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SETTINGS = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
                    phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
COUNT = 0


def fuzz(operation):
    @SETTINGS
    @given(case=operation.as_strategy())
    def ask(case):
        global COUNT
        COUNT += 1
        case.call_and_validate(checks=CHECKS)

    before = COUNT
    ask()
    print(f"{operation.method.upper():<6} {operation.path} {COUNT - before}", flush=True)


for result in schemathesis.openapi.from_url(f"{URL}/api/v1/openapi.json").get_all_operations():
    found = result.ok()
    if not found.path.endswith(LEFT_OUT):
        fuzz(found)
print(f"{COUNT} requests")
