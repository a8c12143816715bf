"""Autobahn's cases of WebSocket (by kosoku) against the broker, over ws and wss.

The cases offer no subprotocol, and many want their messages back. A relay stands between the two, which
offers `mqtt` and adds TLS for wss. In the first run everything behind the request is passed on as it
comes: text ends with 1003 [MQTT-6.0.0-1], and so such a case does not apply. In the second run the cases
that want messages back are made to apply: see mqtt_echo.py. Cases 6 are about what text may be, and 12
and 13 about compression, which is not offered.
"""

import asyncio
import collections
import ssl
import sys

import kosoku
from mqtt_echo import Echo
from servers import Servers

OFFER = b"\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
COMPRESSION = ("12.", "13.")


async def pump(reader, writer, change):
    try:
        while data := await reader.read(1 << 16):
            writer.write(await change(data))
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
    except (ConnectionError, ssl.SSLError):
        writer.close()


async def exchange(reader, writer, there, to, echo):
    async def as_it_is(data):
        return data

    async def up(data):
        to_broker, to_client = echo.from_client(data)
        writer.write(to_client)
        return to_broker

    async def down(data):
        return echo.from_broker(data)

    if echo:
        to.write(echo.begin())
    await asyncio.gather(
        pump(reader, to, up if echo else as_it_is), pump(there, writer, down if echo else as_it_is)
    )


async def relay(port, tls, echoes):
    """Listens on a free port, which it returns."""

    async def serve(reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            name = "localhost" if tls else None
            there, to = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
            rest = head.partition(b" HTTP/1.1")[2]
            to.write(b"GET /mqtt HTTP/1.1" + rest.removesuffix(b"\r\n\r\n") + OFFER)
            answer = await there.readuntil(b"\r\n\r\n")
            kept = lambda line: not line.lower().startswith(b"sec-websocket-protocol")
            writer.write(b"\r\n".join(filter(kept, answer.split(b"\r\n"))))
            await exchange(reader, writer, there, to, Echo() if echoes else None)
            to.close()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        except asyncio.CancelledError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 22)
    return server, server.sockets[0].getsockname()[1]


async def results(port, tls, echoes, cases):
    server, relayed = await relay(port, tls, echoes)
    try:
        found = await kosoku.run_fuzzingclient(f"ws://127.0.0.1:{relayed}", cases=cases, concurrency=2)
    except kosoku.FailureError as failure:
        found = failure.results
    server.close()
    await asyncio.sleep(1)
    return found


def plain_verdict(case):
    """`passed`, why a case does not apply as it is, or `FAILED`."""
    code = case.remote_close_code
    sent = {str(kind) for kind in case.tx_frame_stats}
    if case.case_id.startswith(COMPRESSION):
        return "not applicable: compression is not offered"
    if case.passed:
        return "passed"
    if "1" in sent and code == 1003:
        return "text, ended with 1003"
    if "2" in sent and code == 1008:
        return "binary without CONNECT, ended with 1008"
    if case.case_id == "1.2.1" and code is None:
        return "an empty message, which has no MQTT to answer"
    return "FAILED"


def told(case, found):
    close = f"close {case.remote_close_code}, {case.behavior.value}, {case.behavior_close.value}"
    print(f"  {case.case_id}: {found}; {close}, sent {case.tx_frame_stats}: {' '.join(case.description.split())[:90]}; {case.result} {case.result_close} {case.was_not_clean_reason}")


async def run(kind, port, tls):
    first = await results(port, tls, False, None)
    verdicts, again = collections.Counter(), []
    for case in first:
        found = plain_verdict(case)
        if found == "FAILED":
            told(case, found)
        if "ended with" in found or "empty" in found:
            if case.case_id.startswith("6."):
                found = "not applicable: about text, which ended with 1003"
            else:
                again.append(case.case_id)
                continue
        verdicts[found] += 1
    for case in await results(port, tls, True, again):
        found = "passed with MQTT as content" if case.passed else "FAILED"
        if found == "FAILED":
            told(case, found)
        verdicts[found] += 1
    print(f"autobahn, {kind}: {len(first)} cases")
    for found, count in sorted(verdicts.items()):
        print(f"  {count:4} {found}", flush=True)
    return verdicts["FAILED"] + (verdicts["passed"] == 0)


def main():
    with Servers(bare=False) as servers:
        tls = ssl.create_default_context(cafile=str(servers.directory / "authority.crt"))
        bad = sum(asyncio.run(run(kind, servers.port[kind], context)) for kind, context in (("ws", None), ("wss", tls)))
        assert servers.is_alive(), "the broker has ended"
    sys.exit(bad > 0)


main()
