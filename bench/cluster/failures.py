"""What fails while clients publish: what of that is lost, comes twice, or comes in another order."""
import os, pathlib, signal, subprocess, time

import mqtt
from fleet import LOCAL, RINGMQ, Fleet, Node, Server, bench, report, start, to, wait
from mqtt import Publishers, Reader, Verdict, settle

CLIENTS = 50
PAYLOAD = 130


class Load:
    """5,000 messages of QoS 1 a second from one node to another, until `judge`."""

    def __init__(self, near, far, qos=1):
        self.near, self.far = near, far
        topic = f"load-{near.name}/%i"
        self.reader = bench("sub", *to(far), "-c", CLIENTS, "-i", 0, "-t", topic, "-q", 1)
        known = near.of(far, "filters")
        wait("it is known", lambda: near.of(far, "filters") >= max(known, 0) + CLIENTS)
        self.writer = bench("pub", *to(near), "-c", CLIENTS, "-i", 0, "-w", "true", "-t", topic,
                            "-s", PAYLOAD, "-q", qos, "-F", 200, "-I", "10ms")
        time.sleep(1)

    def judge(self, table, what, may_lose=False):
        wrote = report(self.writer, stop=True)
        wait("windows are empty", lambda: self.near.cluster("node_window_bytes") == 0, 60, 0.2)
        time.sleep(1)
        read = report(self.reader, stop=True)
        count, missing = wrote["published"], wrote["published"] - read["delivered"]
        table.note(f"{what}: published", count)
        table.note(f"{what}: lost", missing + read["duplicated"], "", most=None if may_lose else 0)
        table.note(f"{what}: came twice", read["duplicated"], "", most=0)
        table.note(f"{what}: out of order", read["reordered"], "", most=0)
        longest = wrote.get("ack_ms", {}).get("max")
        if longest:
            table.note(f"{what}: longest until PUBACK", longest, "ms")
        return count, missing


def told(table, what, publishers, reader, may_lose=False, may_double=True):
    verdict = Verdict(publishers, reader)
    table.note(f"{what}: acknowledged", verdict.published)
    table.note(f"{what}: lost", verdict.lost, "", most=None if may_lose else 0)
    table.note(f"{what}: came twice", verdict.doubled, "", most=None if may_double else 0)
    table.note(f"{what}: out of order", verdict.reordered, "", most=0)
    return verdict


def node_killed(directory, table, scale):
    """A node dies: the others go on, and one of them publishes its clients' wills."""
    with Fleet(directory, nodes=3) as fleet:
        first, second, dies = fleet.nodes
        load = Load(first, second)
        wills = mqtt.Client(second, "executor")
        wills.subscribe("will/#")
        bereft = [mqtt.Client(dies, f"bereft-{n}", will=(f"will/{n}", "gone")) for n in range(20)]
        for node in (first, second):
            wait("the wills are known", lambda: node.cluster("wills_kept") >= 20)
        reader = Reader([second, first], "elsewhere", "there/#")
        talk = Publishers([dies, first, second], "there", rate=200)
        # Publishers of the node that dies; the others publish elsewhere and go on.
        time.sleep(max(2, 10 * scale))
        dies.end()
        died = time.monotonic()
        wait("it is noticed", lambda: first.of(dies, "up") == 0, every=0.02)
        table.note("the node that was killed is noticed after", time.monotonic() - died, "s", most=3.6)
        wait("its filters are gone", lambda: first.of(dies, "filters") == 0)
        time.sleep(max(4, 10 * scale))
        again = fleet.nodes[2] = fleet.node(2)
        wait("it is back", fleet.is_whole)
        time.sleep(max(1, 5 * scale))
        talk.stop()
        settle(talk, [reader])
        load.judge(table, "between the others")
        told(table, "published at the node that dies", talk, reader, may_lose=True)
        wills.stream.settimeout(1)
        came = []
        try:
            while True:
                came.append(wills.message()[0])
        except OSError:
            pass
        table.note("wills of its clients that did not come", 20 - len(set(came)), "", most=0)
        table.note("wills that came twice", len(came) - len(set(came)), "", most=0)
        assert again.is_running() and len(bereft) == 20
        reader.stop()


def server_killed(directory, table, scale):
    """One NATS server after the other is killed, and started again."""
    with Fleet(directory, nodes=2, servers=3) as fleet:
        loads = [Load(*fleet.nodes), Load(*fleet.nodes[::-1])]
        for server in fleet.servers:
            time.sleep(max(1, 4 * scale))
            server.end()
            time.sleep(max(2, 6 * scale))
            server.run()
        time.sleep(max(1, 5 * scale))
        judge(loads, table)


def judge(loads, table):
    """Ends each load, and notes what was lost, came twice and came in another order."""
    for load in loads:
        load.judge(table, f"from {load.near.name}")


def server_hangs(directory, table, scale):
    """One NATS server after the other hangs."""
    with Fleet(directory, nodes=2, servers=3) as fleet:
        loads = [Load(*fleet.nodes), Load(*fleet.nodes[::-1])]
        for server in fleet.servers:
            time.sleep(max(1, 4 * scale))
            server.tell(signal.SIGSTOP)
            time.sleep(max(3, 8 * scale))
            server.tell(signal.SIGCONT)
        time.sleep(max(2, 5 * scale))
        judge(loads, table)


def connects(nodes, count=20):
    """The longest that one of some clients waits for CONNACK, in ms."""
    took = [mqtt.Client(nodes[n % len(nodes)], f"comes-{n}").took for n in range(count)]
    return max(took) * 1000


def quorum(directory, table, scale):
    """Two of three servers are away: what is left carries all there is."""
    with Fleet(directory, nodes=3, servers=3) as fleet:
        loads = [Load(*fleet.nodes[:2]), Load(*fleet.nodes[1:])]
        time.sleep(1)
        for server in fleet.servers[:2]:
            server.end()
        time.sleep(3)
        table.note("longest until CONNACK without a quorum", connects(fleet.nodes), "ms", most=200)
        time.sleep(max(2, 15 * scale))
        for server in fleet.servers[:2]:
            server.run()
        time.sleep(max(2, 5 * scale))
        judge(loads, table)


def durable_quorum(directory, table, scale):
    """The same with `durable`: no stream, no key. What has to be stored waits (`without_stream:
    wait`), everything else goes on, and nobody is adopted until there is a quorum again."""
    with Fleet(directory, nodes=3, servers=3, durable=", without_stream: wait") as fleet:
        first, second, dies = fleet.nodes
        lost = mqtt.Client(dies, "lost", clean=False, expiry=600)
        lost.subscribe("lost")
        lost.close()
        writer = mqtt.Client(dies, "writer")
        for number in range(50):
            writer.publish("lost", str(number).encode(), number + 1)
        load = Load(first, second)
        reader = Reader([second], "kept", "kept/#")
        talk = Publishers([second], "kept")
        time.sleep(max(2, 5 * scale))
        for server in fleet.servers[:2]:
            server.end()
        time.sleep(1)
        before = talk.count()
        dies.end()
        nodes = [first, second]
        table.note("longest until CONNACK without a quorum", connects(nodes), "ms", most=200)
        wait("it is noticed", lambda: first.of(dies, "up") == 0)
        # The other one has nothing to store.
        out = lambda: second.cluster("durable_out") == 1 and second.cluster("degraded") == 1
        wait("it says that the stream is out", out)
        time.sleep(max(6, 15 * scale))
        table.note("acknowledged to a stored session meanwhile", talk.count() - before, "", most=0)
        adopted = lambda: sum(n.cluster("durable_adoptions_total") for n in nodes)
        table.note("nodes that were adopted meanwhile", int(adopted()), "", most=0)
        for server in fleet.servers[:2]:
            server.run()
        began = time.monotonic()
        wait("it is adopted", lambda: adopted() == 1, 60)
        table.note("adopted after the servers were back", time.monotonic() - began, "s")
        time.sleep(max(2, 5 * scale))
        by = first if first.cluster("durable_adoptions_total") else second
        back = mqtt.Client(by, "lost", clean=False, expiry=600)
        got = [int(back.message()[1]) for _ in range(50)] if back.present else []
        table.note("adopted: lost, or out of order", int(got != list(range(50))), "", most=0)
        talk.stop()
        settle(talk, [reader])
        told(table, "to a stored session", talk, reader, may_double=False)
        judge([load], table)
        reader.stop()


def engine_gone(directory, table, scale):
    """No server is left: each node is a broker by itself, until there is one again."""
    with Fleet(directory, nodes=2, servers=3) as fleet:
        loads = [Load(*fleet.nodes), Load(*fleet.nodes[::-1])]
        reader = Reader(fleet.nodes[:1], "local-reader", "local/#")
        local = Publishers(fleet.nodes[:1], "local")
        time.sleep(1)
        for server in fleet.servers:
            server.end()
        wait("it is noticed", lambda: all(n.cluster("degraded") == 1 for n in fleet.nodes))
        local.waited = 0
        table.note("longest until CONNACK without a server", connects(fleet.nodes), "ms", most=200)
        ready = sum("ready" in node.page("/readyz") for node in fleet.nodes)
        table.note("nodes that are not ready", len(fleet.nodes) - ready, "", most=0)
        time.sleep(max(2, 15 * scale))
        table.note("longest until PUBACK within a node", local.waited * 1000, "ms", most=500)
        for server in fleet.servers:
            server.start()
        wait("they know each other", fleet.is_whole, 60)
        time.sleep(max(2, 5 * scale))
        local.stop()
        settle(local, [reader])
        told(table, "within a node", local, reader, may_double=False)
        judge(loads, table)
        reader.stop()


def drop(directory, table, scale):
    """The same with `on_partition: drop` and a small window: what is lost is counted."""
    more = ("cluster: {name: figures, node: NODE, nats: {servers: [SERVERS]}, on_partition: drop, "
            "window: 256KiB}\n")
    with Fleet(directory, nodes=2, more=more) as fleet:
        load = Load(*fleet.nodes)
        time.sleep(1)
        fleet.servers[0].end()
        time.sleep(max(3, 10 * scale))
        fleet.servers[0].run()
        wait("they know each other", fleet.is_whole, 60)
        time.sleep(max(2, 5 * scale))
        dropped = fleet.nodes[0].dropped()
        _, missing = load.judge(table, "with on_partition: drop", may_lose=True)
        table.note("counted as dropped", ", ".join(f"{k} {v}" for k, v in dropped.items()) or "none")
        wrong = abs(missing - sum(dropped.values()))
        table.note("lost and not counted, or counted and not lost", wrong, "", most=0)


class Sides:
    """Network namespaces that a bridge connects: in each a NATS server and a node. Nodes are reached
    from here over other links."""

    def __init__(self, directory, count):
        run("link", "set", "lo", "up")
        run("link", "add", "engine", "type", "bridge")
        run("link", "set", "engine", "up")
        self.holders = []
        for at in range(count):
            holder = start(["unshare", "--net", "sleep", "1000000"])
            self.holders.append(holder)
            own = os.readlink("/proc/self/ns/net")
            wait("it has a namespace", lambda: namespace(holder.pid) not in ("", own))
            inside = ("nsenter", "-t", str(holder.pid), "--net", "ip")
            for kind, net in (("c", 1), ("e", 2)):
                near, far = f"{kind}{at}", f"{kind}{at}far"
                run("link", "add", near, "type", "veth", "peer", "name", far)
                run("link", "set", far, "netns", str(holder.pid))
                address = f"10.{net}.{at}.2/24" if net == 1 else f"10.2.0.{at + 1}/24"
                run("addr", "add", address, "dev", far, by=inside)
                run("link", "set", far, "up", by=inside)
                run("link", "set", near, "up")
            run("addr", "add", f"10.1.{at}.1/24", "dev", f"c{at}")
            run("link", "set", f"e{at}", "master", "engine")
            run("link", "set", "lo", "up", by=inside)
        routes = [(f"10.2.0.{at + 1}", 6222) for at in range(count)]
        by = [("nsenter", "-t", str(holder.pid), "--net") for holder in self.holders]
        self.servers, self.nodes = [], []
        for at in range(count):
            # It listens at its side only; that it does is seen from here.
            host = f"10.1.{at}.2"
            place = pathlib.Path(directory) / f"side-{at}"
            place.mkdir()
            self.servers.append(SideServer(place, at, host, routes, by[at]))
        time.sleep(1)
        for at in range(count):
            self.nodes.append(Node(directory, f"node-{at}", [f"10.1.{at}.2:4222"], (at % 2,),
                                   host=f"10.1.{at}.2", by=by[at]))

    def cut(self, at, away=True):
        run("link", "set", f"e{at}", "down" if away else "up")

    def end(self):
        for program in [*self.nodes, *self.servers]:
            program.end()
        for holder in self.holders:
            holder.kill()
            holder.wait()


class SideServer(Server):
    """Clients at one address, other servers at another."""

    def __init__(self, directory, at, host, routes, by):
        self.route = routes[at][0]
        super().__init__(directory, host, (4222, 6222), routes, by)

    def run(self):
        file = pathlib.Path(self.command[-1])
        host = self.address[0]
        file.write_text(file.read_text().replace(f'"{host}:6222"', f'"{self.route}:6222"'))
        super().run()


def namespace(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


def run(*words, by=("ip",)):
    subprocess.run([*by, *words], check=True)


def partition(directory, table, scale):
    """One of three nodes is cut off with its NATS server: for less than it takes to be noticed, and
    for longer."""
    sides = Sides(directory, 3)
    try:
        near, far, third = sides.nodes
        pairs = [(a, b) for a in sides.nodes for b in sides.nodes if a is not b]
        whole = lambda: all(a.of(b, "settled") == 1 for a, b in pairs)
        wait("the nodes know each other", whole)
        for seconds in (1, max(6, 15 * scale)):
            name = f"{seconds:.0f} s"
            prefixes = [f"across-{seconds:.0f}", f"back-{seconds:.0f}", f"stay-{seconds:.0f}"]
            routes = [(near, far), (far, near), (near, third)]
            readers = [Reader([there], f"reader-{prefix}", f"{prefix}/#")
                       for prefix, (_, there) in zip(prefixes, routes)]
            inner = Reader([far], f"inner-{seconds}", f"{prefixes[1]}/#")
            wait("they are known", lambda: near.of(far, "settled") == 1)
            time.sleep(1)
            talks = [Publishers([here], prefix) for prefix, (here, _) in zip(prefixes, routes)]
            time.sleep(2)
            sides.cut(1)
            began = time.monotonic()
            time.sleep(seconds)
            sides.cut(1, False)
            healed = time.monotonic()
            wait("the nodes know each other", whole, 60)
            again = time.monotonic()
            time.sleep(2)
            for talk in talks:
                talk.stop()
            settle(talks[2], [readers[2]])
            settle(talks[0], [readers[0]], 10)
            longer = seconds > 3
            table.note(f"{name}: whole again after", again - healed, "s")
            for what, talk, reader in (("to the node apart", talks[0], readers[0]),
                                       ("from the node apart", talks[1], readers[1])):
                verdict = told(table, f"{name}: {what}", talk, reader, longer, False)
                early = sum(at < began + 1 for at in verdict.times)
                late = sum(at > again for at in verdict.times)
                if longer:
                    table.note(f"{name}: lost before or after", early + late, "", most=0)
            told(table, f"{name}: within the node apart", talks[1], inner, may_double=False)
            told(table, f"{name}: between the others", talks[2], readers[2], may_double=False)
            table.note(f"{name}: longest until PUBACK", max(t.waited for t in talks) * 1000, "ms")
            for reader in [*readers, inner]:
                reader.stop()
    finally:
        sides.end()


def leaves(node):
    """A node leaves its cluster, and ends."""
    subprocess.run([RINGMQ, "cluster", "leave", "--api", f"http://{LOCAL}:{node.admin}",
                    "--patience", "10"], check=True, stdout=subprocess.DEVNULL)
    wait("it ends", lambda: not node.is_running(), 60)


def leave(directory, table, scale):
    """A node leaves: its clients go on elsewhere."""
    with Fleet(directory, nodes=3) as fleet:
        load = Load(*fleet.nodes[:2])
        nodes = [fleet.nodes[2], *fleet.nodes[:2]]
        readers = [Reader(nodes, f"traveller-{n}", "m/#") for n in range(5)]
        wait("they are known", lambda: fleet.nodes[0].of(fleet.nodes[2], "filters") >= 1)
        talk = Publishers(nodes, "m")
        time.sleep(max(2, 5 * scale))
        began = time.monotonic()
        leaves(fleet.nodes[2])
        table.note("until it had left", time.monotonic() - began, "s")
        time.sleep(max(2, 5 * scale))
        finish(table, talk, readers, load)


def finish(table, talk, readers, load):
    talk.stop()
    settle(talk, readers)
    verdicts = [Verdict(talk, reader) for reader in readers]
    what = f"{len(readers)} readers that moved {sum(r.moves for r in readers)} times"
    table.note(f"{what}: acknowledged", talk.count())
    table.note(f"{what}: lost", sum(v.lost for v in verdicts), "", most=0)
    table.note(f"{what}: came twice", sum(v.doubled for v in verdicts))
    table.note(f"{what}: out of order", sum(v.reordered for v in verdicts), "", most=0)
    table.note(f"{what}: sessions gone", sum(r.fresh for r in readers), "", most=0)
    for reader in readers:
        reader.stop()
    if load:
        load.judge(table, "between the others")


def joining(directory, table, scale):
    """A node joins, and a client with its session goes there."""
    with Fleet(directory, nodes=2) as fleet:
        load = Load(*fleet.nodes)
        nodes = list(fleet.nodes)
        readers = [Reader(nodes, f"traveller-{n}", "m/#") for n in range(5)]
        talk = Publishers(nodes, "m")
        time.sleep(max(1, 5 * scale))
        began = time.monotonic()
        fleet.nodes.append(fleet.node(2))
        wait("it is known", fleet.is_whole, every=0.01)
        table.note("until the new node knows and is known", time.monotonic() - began, "s")
        nodes.insert(1, fleet.nodes[2])
        time.sleep(max(1, 5 * scale))
        for reader in readers:
            reader.client.stream.shutdown(2)
        time.sleep(max(1, 5 * scale))
        there = sum(reader.place == 1 for reader in readers)
        table.note("clients that are not at the new node", len(readers) - there, "", most=0)
        finish(table, talk, readers, load)


def rolling(directory, table, scale):
    """Each node leaves and is started again, one after the other."""
    with Fleet(directory, nodes=3) as fleet:
        nodes = fleet.nodes
        readers = [Reader(nodes, f"traveller-{n}", "m/#", n % 3) for n in range(6)]
        talk = Publishers(nodes, "m")
        time.sleep(max(1, 5 * scale))
        for at in range(3):
            leaves(nodes[at])
            nodes[at] = fleet.node(at)
            fleet.meet(60)
            time.sleep(max(1, 5 * scale))
        table.note("publishers that were sent elsewhere", talk.again)
        finish(table, talk, readers, None)
