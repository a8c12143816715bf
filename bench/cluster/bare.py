"""Frames through a NATS server with nothing around them: the part of a flood's cost that is in the
connections of both nodes, whatever the nodes do. `measure` runs this file as two processes."""
import json, socket, subprocess, sys, time

FRAME = 16_150  # what a full segment makes, with about a hundred messages
TOGETHER = 5  # frames that a node writes at once under load
SUBJECT = b"bare.node"


def measure(port, frames, seconds):
    """CPU of a frame, at its writer and at its reader, in microseconds, at so many a second."""
    run = lambda *words: subprocess.Popen([sys.executable, __file__, str(port), *map(str, words)],
                                          stdout=subprocess.PIPE)
    reader = run("read", frames, seconds)
    reader.stdout.readline()
    writer = run("write", frames, seconds)
    written = json.loads(writer.communicate()[0])
    read = json.loads(reader.communicate()[0])
    if read["bytes"] < written["frames"] * FRAME:
        raise RuntimeError(f"{read} of {written}")
    return [one["cpu"] / written["frames"] * 1e6 for one in (written, read)]


def connect(port):
    stream = socket.create_connection(("127.0.0.1", port))
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.recv(65536)
    stream.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
    return stream


def ask(stream):
    """Everything that was sent before is done when the server has answered."""
    stream.sendall(b"PING\r\n")
    while not stream.recv(65536).endswith(b"PONG\r\n"):
        pass


def turns(frames, seconds):
    """How often so many frames are written."""
    return max(1, round(frames * seconds / TOGETHER))


def write(stream, frames, seconds):
    ask(stream)
    piece = [b"PUB %b %d\r\n" % (SUBJECT, FRAME), b"a" * FRAME, b"\r\n"] * TOGETHER
    whole = b"".join(piece)
    began, before = time.monotonic(), time.thread_time()
    for turn in range(turns(frames, seconds)):
        sent = stream.sendmsg(piece)
        if sent < len(whole):
            stream.sendall(whole[sent:])
        wait = began + (turn + 1) * TOGETHER / frames - time.monotonic()
        if wait > 0:
            time.sleep(wait)
    spent = time.thread_time() - before
    ask(stream)
    return {"frames": turns(frames, seconds) * TOGETHER, "cpu": spent}


def read(stream, frames, seconds):
    stream.sendall(b"SUB %b 1\r\n" % SUBJECT)
    ask(stream)
    print("subscribed", flush=True)
    expected = turns(frames, seconds) * TOGETHER * FRAME
    buffer, total, before = bytearray(65536), 0, time.thread_time()
    answer_at = time.monotonic()
    until = answer_at + seconds + 10
    while total < expected and answer_at < until and (got := stream.recv_into(buffer)):
        total += got
        # The server gives up who does not answer its pings, wherever they are in the bytes.
        if time.monotonic() >= answer_at:
            stream.sendall(b"PONG\r\n")
            answer_at += 0.5
    return {"bytes": total, "cpu": time.thread_time() - before}


if __name__ == "__main__":
    port, role, *rest = sys.argv[1:]
    stream = connect(int(port))
    done = {"write": write, "read": read}[role](stream, *map(float, rest))
    print(json.dumps(done))
