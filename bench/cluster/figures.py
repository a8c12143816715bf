"""What a cluster costs, and how long it takes, beside one broker in the same run."""
import os, statistics, threading, time

import bare, mqtt
from fleet import BENCH, Fleet, Node, bench, report, to, wait

PAYLOAD = 130


def median(values):
    return statistics.median(values)


def percentile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))]


def alone(directory, table, scale):
    """Messages that nobody at another node wants."""
    single = Node(directory, "alone", cores=(0,))
    with Fleet(directory, cores=[(0,), (1,)]) as fleet:
        ratios, costs = [], {}
        try:
            for turn in range(max(2, round(12 * scale))):
                both = [single, fleet.nodes[0]]
                cost = {node.name: pairs(node) for node in (both if turn % 2 else both[::-1])}
                for name, value in cost.items():
                    costs.setdefault(name, []).append(value)
                ratios.append(cost["node-0"] / cost["alone"])
        finally:
            single.end()
        sent = fleet.nodes[0].cluster("messages_sent_total")
    table.note("CPU of a message, one broker", median(costs["alone"]), "us")
    table.note("the same at a node, nobody elsewhere wants it", median(costs["node-0"]), "us")
    table.note("ratio, median of pairs of runs", median(ratios), "", most=1.01)
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    table.note("ratios from least to most", spread)
    table.note("messages that went to the other node", int(sent), "", most=0)


def pairs(node):
    result = report(bench("run", "--scenario", "pairs-max-qos0", "--target",
                          f"{node.host}:{node.port}", "--pid", node.process.pid,
                          "--warmup", 1, "--seconds", 2))
    return result["cpu_us"]


class Flood:
    """Publishers as fast as they go, and what reads it, for CPU of a message."""

    def __init__(self, near, far, others, seconds, clients=20):
        self.far = far
        reader = bench("sub", *to(far), "-c", clients, "-i", 0, "-t", "flood/%i")
        wait("they subscribe", lambda: far.figure("ringmq_subscriptions") >= clients)
        if near is not far:
            wait("it is known", lambda: near.of(far, "filters") >= clients)
        writer = bench("pub", *to(near), "-c", clients, "-i", 0, "-w", "true", "-t", "flood/%i",
                       "-s", PAYLOAD, "-I", 0, "--seconds", seconds + 4)
        time.sleep(2)
        programs = list(dict.fromkeys([near, far, *others]))
        before, begin = [program.cpu() for program in programs], self.sent()
        began = time.monotonic()
        time.sleep(seconds)
        after, end = [program.cpu() for program in programs], self.sent()
        self.seconds = time.monotonic() - began
        self.messages = max(1, end - begin)
        self.cost = {program: (late - early) / self.messages * 1e6
                     for program, early, late in zip(programs, before, after)}
        report(writer)
        time.sleep(1)
        self.result = report(reader, stop=True)
        self.lost = self.result["lost"]

    def sent(self):
        return self.far.figure("ringmq_messages_sent_total")

    def rate(self):
        return self.messages / self.seconds


def flood(directory, table, scale):
    seconds = max(3, 10 * scale)
    with Fleet(directory, cores=[(0,), (1,)]) as fleet:
        near, far = fleet.nodes
        across = Flood(near, far, fleet.servers, seconds)
        within = Flood(near, near, [], seconds)
        table.note("messages across, each second", across.rate(), "/s")
        both = across.cost[near] + across.cost[far]
        table.note("CPU of a message, both ends", both, "us", most=0.6)
        table.note("of that, the publishers' node", across.cost[near], "us")
        table.note("of that, the subscribers' node", across.cost[far], "us")
        table.note("CPU of a message, NATS", across.cost[fleet.servers[0]], "us")
        table.note("CPU of a message within one node", within.cost[near], "us")
        a_frame = bare.FRAME // (PAYLOAD + 20)
        there = bare.measure(fleet.servers[0].address[1], across.rate() / a_frame, seconds)
        table.note("bare connections to NATS, such frames, as fast", sum(there) / a_frame, "us")
        table.note("lost", across.lost, "", most=0)
        table.note("out of order", across.result["reordered"], "", most=0)


def paced(near, far, qos, seconds):
    """Latency in milliseconds of 10,000 messages a second from 100 clients, each to one."""
    reader = bench("sub", *to(far), "-c", 100, "-i", 0, "-t", "paced/%i", "-q", qos)
    wait("they subscribe", lambda: far.figure("ringmq_subscriptions") >= 100)
    if near is not far:
        wait("it is known", lambda: near.of(far, "filters") >= 100)
    writer = bench("pub", *to(near), "-c", 100, "-i", 0, "-w", "true", "-t", "paced/%i", "-q", qos,
                   "-s", PAYLOAD, "-I", "10ms", "--max-random-wait", "10ms", "-F", 64,
                   "--seconds", seconds)
    report(writer)
    time.sleep(0.5)
    return report(reader, stop=True)


def latency(directory, table, scale):
    seconds = max(3, 8 * scale)
    with Fleet(directory, cores=[(0,), (1,)]) as fleet:
        near, far = fleet.nodes
        for qos in (0, 1):
            there = paced(near, far, qos, seconds)
            here = paced(near, near, qos, seconds)
            for part, most in (("p50", 0.3), ("p99", 2)):
                one, two = here["latency_ms"][part], there["latency_ms"][part]
                table.note(f"QoS {qos}: {part} within a node", one, "ms")
                table.note(f"QoS {qos}: {part} across", two, "ms")
                table.note(f"QoS {qos}: {part} added", two - one, "ms", most=most)
            table.note(f"QoS {qos}: lost", there["lost"], "", most=0)


def connack(nodes, count):
    """Milliseconds from CONNECT to CONNACK of clients that come 5 ms apart and stay a while."""
    took, there = [], []
    for number in range(count):
        client = mqtt.Client(nodes[number % len(nodes)], f"comes-{number}")
        took.append(client.took * 1000)
        there.append(client)
        if len(there) > 500:
            there.pop(0).close()
        time.sleep(0.005)
    return took


def claim(directory, table, scale):
    count = round(3000 * scale)
    single = Node(directory, "alone", cores=(0,))
    try:
        plain = connack([single], count)
    finally:
        single.end()
    with Fleet(directory, nodes=3, cores=[(0,), (1,)]) as fleet:
        claimed = connack(fleet.nodes, count)
        failed = sum(node.cluster("claims_failed_total") for node in fleet.nodes)
    for part, most in ((0.5, 1.5), (0.99, 10)):
        name = f"p{part * 100:.0f}"
        table.note(f"CONNACK {name}, one broker", percentile(plain, part), "ms")
        table.note(f"CONNACK {name}, three nodes", percentile(claimed, part), "ms", most=most)
    table.note("claims that failed", int(failed), "", most=0)


def takeover(directory, table, scale):
    """A client that is connected elsewhere, with 100 messages that it has not acknowledged."""
    count, took, whole, lost, disorder, doubled, fresh = round(300 * scale), [], [], 0, 0, 0, 0
    with Fleet(directory, nodes=3, cores=[(0,), (1,)]) as fleet:
        writer = mqtt.Client(fleet.nodes[2], "writer")
        for turn in range(count):
            there, then = fleet.nodes[turn % 2], fleet.nodes[1 - turn % 2]
            name, topic = f"traveller-{turn}", f"queue/{turn}"
            old = mqtt.Client(there, name, expiry=600)
            old.subscribe(topic)
            burst = b"".join(mqtt.publish_packet(topic, str(n).encode().rjust(PAYLOAD), n + 1)
                             for n in range(100))
            writer.stream.sendall(burst)
            for _ in range(100):
                writer.wait_for(0x40)
            # Some of them are in flight, the others queued.
            wait("they are there", lambda: arrived(old) == 32)
            began = time.monotonic()
            new = mqtt.Client(then, name, clean=False, expiry=600)
            took.append(new.took * 1000)
            got = [int(new.message()[1]) for _ in range(100)] if new.present else []
            whole.append((time.monotonic() - began) * 1000)
            fresh += not new.present
            firsts = list(dict.fromkeys(got))
            lost += 100 - len(firsts)
            doubled += len(got) - len(firsts)
            disorder += firsts != sorted(firsts)
            new.stream.sendall(mqtt.packet(0xE0, b"\0\5\x11\0\0\0\0"))
            old.close()
    table.note("takeovers with 100 messages each", count, "")
    table.note("from CONNECT to CONNACK, p50", percentile(took, 0.5), "ms")
    table.note("from CONNECT to CONNACK, p99", percentile(took, 0.99), "ms", most=20)
    table.note("until the last message has come, p99", percentile(whole, 0.99), "ms")
    table.note("messages lost", lost, "", most=0)
    table.note("messages that came twice", doubled, "", most=0)
    table.note("takeovers out of order", disorder, "", most=0)
    table.note("sessions not there", fresh, "", most=0)


def arrived(client):
    """Messages that have come and that are not acknowledged."""
    client.stream.settimeout(0.02)
    try:
        while True:
            client.messages.append(client.message_kept())
    except OSError:
        pass
    client.stream.settimeout(20)
    return len(client.messages)


def takeovers(directory, table, scale):
    """Clients that are connected at one node connect at the other one, all at once."""
    batch, total = min(9000, round(100_000 * scale)), round(100_000 * scale)
    with Fleet(directory, cores=[(0,), (1,)]) as fleet:
        done, spent, worst, old, turn = 0, 0.0, 0.0, None, 0
        while done <= total:
            node = fleet.nodes[turn % 2]
            before = node.cluster("sessions_moved_total", 'reason="came"')
            began = time.monotonic()
            new = bench("conn", *to(node), "-c", batch, "-i", 0, "--joining", 500, "-C", "false",
                        "-x", 600, "--prefix", "crowd", "--seconds", 3600)
            # The first time all come from nowhere.
            moved = lambda: node.cluster("sessions_moved_total", 'reason="came"') - before
            connections = lambda: node.figure("ringmq_connections")
            wait("all are in", lambda: connections() >= batch, 120, every=0.1)
            if turn:
                # What has moved is shown twice a second.
                spent += time.monotonic() - began
                wait("all sessions have come", lambda: moved() >= batch, 30)
                old_result = report(old, stop=True)
            worst = max(worst, time.monotonic() - began)
            done, turn, old = done + batch, turn + 1, new
        result = report(old, stop=True)
        moved = batch * (turn - 1)
        sessions = [int(node.figure("ringmq_sessions")) for node in fleet.nodes]
        failed = sum(node.cluster("claims_failed_total") for node in fleet.nodes)
        broken = sum(node.cluster("sessions_moved_total", 'reason="failed"') for node in fleet.nodes)
    table.note("live takeovers, in batches of " + f"{batch:,}", moved, "")
    table.note("time for 100,000 of them", spent / moved * 100_000, "s", most=30)
    table.note("CONNACK p99 in the last batch", result["connack_ms"]["p99"], "ms")
    table.note("sessions that were lost", batch - sum(sessions), "", most=0)
    table.note("claims that failed", int(failed), "", most=0)
    table.note("sessions that did not arrive", int(broken), "", most=0)


def adoption(directory, table, scale):
    """A node with durable sessions is killed, each with a subscription and without a connection: how
    long until another node has them all, on its disk and in the stream."""
    total = round(100_000 * scale)
    batch = min(9000, total)
    with Fleet(directory, cores=[(0,), (1,)], durable="", more="limits: {memory: unlimited}\n") as fleet:
        dies, adopts = fleet.nodes
        there, began = 0, time.monotonic()
        while there < total:
            count = min(batch, total - there)
            crowd = bench("sub", *to(dies), "-c", count, "-i", 0, "--joining", 500, "-t", "kept/%i",
                          "-q", 1, "-C", "false", "-x", 3600, "--prefix", f"crowd-{there}")
            there += count
            wait("they subscribe", lambda: dies.figure("ringmq_subscriptions") >= there, 120, 0.1)
            report(crowd, stop=True)
        table.note("durable sessions with a subscription each", there)
        table.note("of them made in a second", there / (time.monotonic() - began), "/s")
        wait("the stream has all", lambda: dies.cluster("durable_behind_batches") == 0, 60, 0.1)
        # One of them has messages that wait for it.
        keeper = mqtt.Client(dies, "keeper", clean=False, expiry=3600)
        keeper.subscribe("keeper")
        keeper.close()
        writer = mqtt.Client(dies, "writer")
        for number in range(100):
            writer.publish("keeper", str(number).encode(), number + 1)
        dies.end()
        killed = time.monotonic()
        wait("it is noticed", lambda: adopts.of(dies, "up") == 0, every=0.02)
        noticed = time.monotonic()
        wait("it is adopted", lambda: adopts.cluster("durable_adoptions_total") == 1, 120, 0.05)
        done = time.monotonic()
        back = mqtt.Client(adopts, "keeper", clean=False, expiry=3600)
        got = [int(back.message()[1]) for _ in range(100)] if back.present else []
        sessions = int(adopts.figure("ringmq_sessions"))
        table.note("noticed after", noticed - killed, "s")
        table.note("from then until 100,000 are adopted", (done - noticed) * 100_000 / there, "s", most=10)
        table.note("sessions that are not there", there + 1 - sessions, "", most=0)
        table.note("messages that were not there, or out of order", int(got != list(range(100))), "", most=0)
        table.note("memory of the node that adopts", adopts.memory() / (1 << 20), "MiB")


class Probe(threading.Thread):
    """A pair of clients of one node; how long each message takes."""

    def __init__(self, node, rate=200):
        super().__init__(daemon=True)
        self.times, self.over, self.rate = [], False, rate
        self.reader = mqtt.Client(node, "probe-reader")
        self.reader.subscribe("probe")
        self.writer = mqtt.Client(node, "probe-writer")
        self.start()

    def run(self):
        while not self.over:
            began = time.monotonic()
            self.writer.stream.sendall(mqtt.publish_packet("probe", b"x" * PAYLOAD))
            self.reader.message()
            self.times.append((time.monotonic() - began) * 1000)
            time.sleep(max(0, began + 1 / self.rate - time.monotonic()))

    def take(self):
        taken, self.times = self.times, []
        return taken

    def stop(self):
        self.over = True
        self.join()


def join(directory, table, scale):
    """A node joins one that has many filters and retained messages, while clients are served."""
    filters, retained = round(1_000_000 * scale), round(1_000_000 * scale)
    with Fleet(directory, nodes=1, cores=[(0,), (1,)],
               more="limits: {memory: unlimited}\n") as fleet:
        old = fleet.nodes[0]
        clients = [fill(old, number, filters // 100) for number in range(100)]
        writer = mqtt.Client(old, "filler")
        for first in range(0, retained, 1000):
            writer.stream.sendall(b"".join(
                mqtt.publish_packet(f"kept/{n // 1000}/{n}", b"%016d" % n, retain=True)
                for n in range(first, min(first + 1000, retained))))
        writer.publish("filler", b"end", 1)
        kept = old.figure("ringmq_retained_messages")
        probe = Probe(old)
        time.sleep(5)
        before = probe.take()
        memory = old.memory()
        began = time.monotonic()
        new = fleet.node(1)
        fleet.nodes.append(new)
        wait("its filters are known", lambda: new.of(old, "filters") >= filters, 120, 0.1)
        with_filters = time.monotonic() - began
        wait("all is there", lambda: new.figure("ringmq_retained_messages") >= kept, 120, 0.1)
        wait("the nodes have settled", lambda: fleet.is_whole(), 120, 0.1)
        took = time.monotonic() - began
        during = probe.take()
        time.sleep(5)
        probe.stop()
        table.note("filters, and retained messages", f"{filters:,} {int(kept):,}")
        table.note("until the new node has the filters", with_filters, "s")
        table.note("until it has everything", took, "s", most=20)
        quiet = percentile(before, 0.99)
        table.note("p99 of a pair at the old node, before", quiet, "ms")
        # On a machine where the new node works beside it: what a step of the old one takes longer.
        table.note("the same meanwhile", percentile(during, 0.99), "ms", most=quiet + 2)
        table.note("longest meanwhile", max(during), "ms")
        grown = (old.memory() - memory) / (1 << 20)
        table.note("memory of the old node, more by", grown, "MiB")
        for client in clients:
            client.close()


def fill(node, number, count):
    """A client with so many filters of its own."""
    client = mqtt.Client(node, f"wants-{number}", patience=60)
    for first in range(0, count, 1000):
        names = [f"site/{number}/{at}/+" for at in range(first, min(first + 1000, count))]
        client.subscribe(*names)
    return client
