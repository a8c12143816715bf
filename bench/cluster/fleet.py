"""Nodes of a cluster and its NATS servers as processes, on loopback or in network namespaces."""
import ctypes, json, os, pathlib, re, shutil, signal, socket, subprocess, sys, tempfile, time, urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
RINGMQ = os.environ.get("RINGMQ", str(BUILT / "ringmq"))
BENCH = os.environ.get("BENCH", str(BUILT / "ringmq-bench"))
SERVER_CONFIG = ROOT / "tuning/nats-server.conf"
LOCAL = "127.0.0.1"
given = set()


def nats_server():
    """The program that scripts/test has installed, or that of the PATH."""
    own = ROOT / ".venv/bin/nats-server"
    found = str(own) if own.exists() else shutil.which("nats-server")
    return found or sys.exit("nats-server is not installed: `scripts/test interop` installs it")


LIBC = ctypes.CDLL(None, use_errno=True)
SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def start(command, **more):
    """Starts a program that the kernel kills when this one is gone, however it went."""
    parent = os.getpid()

    def follow():
        LIBC.prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(command, preexec_fn=follow, **more)


def free_port():
    """A port that nobody has, and that was not returned before."""
    while True:
        with socket.socket() as free:
            free.bind((LOCAL, 0))
            port = free.getsockname()[1]
        if port not in given:
            given.add(port)
            return port


def wait(what, condition, seconds=30, every=0.05):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"did not happen in {seconds} s: {what}")
        time.sleep(every)


class Program:
    """A process that listens at an address; `by`: what runs it, as nsenter does."""

    def __init__(self, command, address, by=()):
        self.command, self.address = [*by, *command], address
        self.log = tempfile.TemporaryFile("w+")
        self.process = None
        self.run()

    def start(self):
        self.process = start(self.command, stdout=self.log, stderr=self.log)

    def run(self):
        self.start()
        wait(f"{self.command} listens", self.listens)

    def listens(self):
        try:
            socket.create_connection(self.address, 1).close()
            return True
        except OSError:
            if self.process.poll() is not None:
                self.log.seek(0)
                sys.exit(f"{self.command} has ended:\n{self.log.read()[-4000:]}")
            return False

    def tell(self, how):
        self.process.send_signal(how)

    def is_running(self):
        return self.process.poll() is None

    def end(self, how=signal.SIGKILL):
        if self.is_running():
            self.tell(how)
            self.tell(signal.SIGCONT)
        self.process.wait()

    def cpu(self):
        """Seconds of CPU time of all its threads, by the scheduler's clock."""
        spent = 0
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                spent += int((task / "schedstat").read_text().split()[0])
            except OSError:
                continue
        return spent / 1e9


class Server(Program):
    """A NATS server with the configuration of `tuning`, one of several with `routes`; with a place to
    keep streams, if it is to."""

    def __init__(self, directory, host, ports, routes, by=(), keeps=False):
        client, cluster = ports
        lines = SERVER_CONFIG.read_text().splitlines()
        lines = [line for line in lines if line and not line.startswith(("#", "listen:"))]
        lines.append(f'listen: "{host if by else LOCAL}:{client}"')
        if routes:
            urls = ", ".join(f'"nats://{at}:{port}"' for at, port in routes)
            lines.append(f'cluster {{ name: engine, listen: "{host}:{cluster}", routes: [{urls}] }}')
        if keeps:
            lines.append(f"server_name: n{client}")
            lines.append(f'jetstream {{ store_dir: "{directory}/streams-{client}" }}')
        file = directory / f"nats-{host}-{client}.conf"
        file.write_text("\n".join(lines) + "\n")
        super().__init__([nats_server(), "-c", str(file)], (host, client), by)


class Node(Program):
    """A broker; with servers it is a node of the cluster `figures`."""

    def __init__(self, directory, name, servers=(), cores=(0,), more="", host=LOCAL, by=()):
        self.name, self.host = name, host
        self.port, self.admin = free_port(), free_port()
        urls = ", ".join(f"'nats://{url}'" for url in servers)
        cluster = f"cluster: {{name: figures, node: {name}, nats: {{servers: [{urls}]}}}}\n"
        if "cluster:" in more:
            cluster = ""
            more = more.replace("NODE", name).replace("SERVERS", urls)
        # Off loopback the management API needs users and TLS.
        bind = "bind" if host == LOCAL else "pages_bind"
        file = directory / f"{name}-{self.port}.yaml"
        file.write_text(
            f"listeners: [{{bind: '{host}:{self.port}', allow_anonymous: true}}]\n"
            f"admin: {{{bind}: '{host}:{self.admin}'}}\n"
            f"cores: {list(cores)}\n"
            "mqtt: {pending: {max_messages: 1000000, max_bytes: 1GiB}}\n"
            + (cluster if servers else "") + more
        )
        super().__init__([RINGMQ, "--config", str(file)], (host, self.port), by)

    def page(self, path):
        with urllib.request.urlopen(f"http://{self.host}:{self.admin}{path}", timeout=20) as page:
            return page.read().decode()

    def figure(self, name, labels=""):
        """The sum of a metric's lines that have these labels."""
        lines = [l for l in self.page("/metrics").splitlines() if re.match(rf"{name}[ {{]", l)]
        return sum(float(l.rsplit(" ", 1)[1]) for l in lines if labels in l)

    def of(self, other, name):
        """A figure that it has of another node."""
        return self.figure(f"ringmq_cluster_node_{name}", f'node="{other.name}"')

    def cluster(self, name, labels=""):
        return self.figure(f"ringmq_cluster_{name}", labels)

    def dropped(self):
        """Messages for other nodes that it has dropped, by reason."""
        found = {}
        for line in self.page("/metrics").splitlines():
            if line.startswith("ringmq_cluster_dropped_total{"):
                found[re.search(r'reason="(\w+)"', line)[1]] = int(float(line.rsplit(" ", 1)[1]))
        return {reason: count for reason, count in found.items() if count}

    def memory(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024


class Fleet:
    """Nodes that know each other, and their servers; all end with the block. With `durable` (further
    keys of `cluster`, or nothing) their sessions survive them, in the servers' streams."""

    def __init__(self, directory, nodes=2, servers=1, cores=None, more="", durable=None):
        self.directory, self.more, self.cores = directory, more, cores
        self.durable, self.replicas = durable, min(servers, 3)
        ports = [(free_port(), free_port()) for _ in range(servers)]
        routes = [(LOCAL, cluster) for _, cluster in ports] if servers > 1 else []
        self.servers, self.nodes = [], []
        try:
            keeps = durable is not None
            self.servers = [Server(directory, LOCAL, both, routes, keeps=keeps) for both in ports]
            if servers > 1:
                time.sleep(1)
            for number in range(nodes):
                self.nodes.append(self.node(number))
            self.meet()
        except BaseException:
            self.__exit__()
            raise

    def node(self, number):
        # Each begins with another server.
        urls = [f"{LOCAL}:{server.address[1]}" for server in self.servers]
        urls = urls[number % len(urls):] + urls[:number % len(urls)]
        cores = self.cores[number % len(self.cores)] if self.cores else (number % 2,)
        more, name = self.more, f"node-{number}"
        if self.durable is not None:
            more += (f"storage: {{path: '{self.directory}/{name}'}}\n"
                     "cluster: {name: figures, node: NODE, nats: {servers: [SERVERS]}, durable: true, "
                     f"replicas: {self.replicas}{self.durable}}}\n")
        return Node(self.directory, name, urls, cores, more)

    def meet(self, seconds=30):
        wait("the nodes know each other", self.is_whole, seconds)
        if self.durable is not None:
            members = lambda: all(n.cluster("durable_member") == 1 for n in self.nodes)
            wait("they are members", members, seconds)

    def is_whole(self):
        pairs = [(one, other) for one in self.nodes for other in self.nodes if one is not other]
        return all(one.of(other, "settled") == 1 for one, other in pairs)

    def windows_are_empty(self):
        return all(node.cluster("node_window_bytes") == 0 for node in self.nodes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for program in [*self.nodes, *self.servers]:
            if program.process:
                program.end()


def bench(*words):
    """Starts the load generator; `report` takes what it has to say."""
    result = tempfile.NamedTemporaryFile(suffix=".json")
    command = [BENCH, *map(str, words), "--json", result.name]
    out = tempfile.TemporaryFile("w+")
    process = start(command, stdout=out, stderr=subprocess.STDOUT)
    process.result, process.out = result, out
    return process


def report(process, seconds=120, stop=False):
    """The result of a run that ends by itself, or is told to."""
    if stop:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.out.seek(0)
    said = process.out.read()
    if process.returncode:
        raise RuntimeError(f"{process.args}:\n{said[-3000:]}")
    found = json.loads(pathlib.Path(process.result.name).read_text())
    return found.get("result", found)


def to(node):
    return ("-h", node.host, "-p", node.port)
