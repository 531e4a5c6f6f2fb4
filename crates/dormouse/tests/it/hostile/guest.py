"""A tenant who is root in the guest and means harm: `guest.py MODE SECONDS`.

It takes the agent's descriptors of the virtio ports (pidfd_getfd) and its pages of the ring (map_files), and where a
mode needs that, stops the agent's threads for good. Then it says whatever it likes, as the agent to the host. Says
"begun" once it does, and "done" at its end; /var/said tells how much the host took of what.
"""

import ctypes
import mmap
import os
import random
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
PIDFD_GETFD = 438
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
# Where an area of the ring has its words: crates/guest-ring.
SENT, TAKEN, ASLEEP = 0, 64, 128
noise = random.Random(7)
taken, rest, words = {}, {}, {}


def begun():
    print("begun", flush=True)


def over(what):
    """Tells whoever reads the console: nothing else of ours is heard any more."""
    with open("/dev/ttyS0", "wb", buffering=0) as console:
        console.write(f"\n{what} over\n".encode())


def port(name):
    """The agent's descriptor of a port, as one of ours."""
    device = next(
        p for p in os.listdir("/sys/class/virtio-ports")
        if open(f"/sys/class/virtio-ports/{p}/name").read().strip() == name
    )
    agent = os.pidfd_open(1)
    for number in os.listdir("/proc/1/fd"):
        if os.readlink(f"/proc/1/fd/{number}") == f"/dev/{device}":
            fd = libc.syscall(PIDFD_GETFD, agent, int(number), 0)
            assert fd >= 0, os.strerror(ctypes.get_errno())
            os.set_blocking(fd, False)
            return fd
    raise AssertionError(f"the agent does not hold {name}")


def stop_agent():
    """Stops every thread of process 1. It goes on when we end."""
    # Once what was said before is with the host.
    time.sleep(0.5)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    for thread in os.listdir("/proc/1/task"):
        for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
            if libc.ptrace(request, int(thread), 0, 0) < 0:
                raise OSError(ctypes.get_errno(), "ptrace")


def say(fd, piece):
    """Goes on with what the host did not take yet, else with this; pieces stay whole, so that each is looked
    at. What the host says is never read."""
    left = rest.get(fd) or piece
    try:
        length = os.write(fd, left)
    except BlockingIOError:
        time.sleep(0.001)
        length = 0
    rest[fd] = left[length:]
    taken[fd] = taken.get(fd, 0) + length


def until(seconds, *works):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for work in works:
            work()


def mux(kind, flags, stream, length, body=b""):
    return struct.pack(">BBHII", 0, kind, flags, stream, length) + body


def request(opcode, unique, node, body=b"", length=None):
    length = 40 + len(body) if length is None else length
    return struct.pack("=IIQQIIIHH", length, opcode, unique, node, 0, 0, 1, 0, 0) + body


def ports(seconds):
    """What an agent could say, a quarter of the time each: what looks right first."""
    control, home = port("dormouse.ctl"), port("dormouse.fuse")
    begun()
    stop_agent()
    with open("/var/said", "w") as said:
        for work in (odd, unread, announced, garbage):
            taken.clear()
            work(seconds / 4, control, home)
            said.write(f"{work.__name__} {taken.get(control, 0)} {taken.get(home, 0)}\n")
        said.flush()
        os.fsync(said.fileno())
    over("ports")


def streams(seconds):
    """The agent may open none; here it opens one after the other."""
    control = port("dormouse.ctl")
    begun()
    stop_agent()
    many = b"".join(mux(1, 1, s, 0) for s in range(2, 8000, 2))
    until(seconds, lambda: say(control, many))


def odd(seconds, control, home):
    """Windows and the smallest frames for every stream that there may be; and requests that no kernel
    makes, with numbers that are used again. No answer is read."""
    windows = b"".join(mux(1, 0, s, 1) for s in range(1, 2000, 2))
    small = b"".join(mux(0, 0, s, 1, b"x") for s in range(1, 2000, 2))
    wide = struct.pack("=QQIIQII", 0, 2**63, 0xFFFF_FFFF, 0, 0, 0, 0)
    far = struct.pack("=QQIIQII", 0, 2**64 - 1, 0xFFFF_FFFF, 0, 0, 0, 0)
    pieces = [
        request(4711, 1, 1),
        request(1, 7, 1, b"x" * 5000),
        request(42, 0, 0, struct.pack("=II", 0xFFFF_FFFF, 0) + b"\xff" * 1600),
        request(42, 0, 0, struct.pack("=IIQQ", 1, 0, 1, 2**64 - 1)),
        request(15, 7, 1, wide),
        request(16, 7, 1, wide),
        request(44, 7, 1, far),
        request(47, 7, 1, struct.pack("=QQQQQQQ", 0, 0, 1, 0, 2**62, 2**62, 0)),
        request(41, 7, 1, bytes(64)),
        request(3, 7, 2**64 - 1, bytes(16)),
        request(26, 7, 0, struct.pack("=IIII", 7, 38, 2**32 - 1, 2**32 - 1) + bytes(48)),
        request(38, 7, 0),
        request(3, 7, 1),
    ]
    whole = b"".join(piece * 20 for piece in pieces)
    until(seconds, lambda: say(home, whole), lambda: say(control, windows), lambda: say(control, small))


def unread(seconds, control, home):
    """Questions that have to be answered, to one who does not read."""
    pings = b"".join(mux(2, 1, 0, n) for n in range(1000))
    asks = b"".join(request(3, n, 1, bytes(16)) for n in range(1000))
    until(seconds, lambda: say(control, pings), lambda: say(home, asks))


def announced(seconds, control, home):
    """Four GiB."""
    say(control, mux(0, 0, 1, 0xFFFF_FFFF))
    say(home, request(16, 1, 1, length=0xFFFF_FFFF))
    until(seconds, lambda: say(control, b"x" * 32768), lambda: say(home, b"x" * 32768))


def garbage(seconds, control, home):
    until(seconds, *(lambda fd=fd: say(fd, noise.randbytes(32768)) for fd in (control, home)))


def areas():
    """The agent's large pages, as ours too: that with requests in it, and that with answers."""
    found = []
    for line in open("/proc/1/maps"):
        if "anon_hugepage" in line:
            file = os.open(f"/proc/1/map_files/{line.split()[0]}", os.O_RDWR)
            page = mmap.mmap(file, 2 << 20)
            # Each is written at once, as a processor does.
            words[page] = (ctypes.c_uint32 * (1 << 19)).from_buffer(page)
            found.append(page)
    assert len(found) == 2, found
    def asks(area):
        """The last message has an opcode, where an answer has an error, and is nothing that the host says by itself."""
        at = 4096 + get(area, 256 + 8 * ((get(area, SENT) - 1) % 64))
        return 0 < get(area, at + 4) < 64 and get(area, at + 8) > 0

    return sorted(found, key=asks, reverse=True)


def get(area, at):
    return words[area][at // 4]


def put(area, at, *values):
    for value in values:
        words[area][at // 4] = value % 2**32
        at += 4


def lay(area, message, at=0):
    area[4096 + at:4096 + at + len(message)] = message
    return at, len(message)


def tell(area, home, place):
    """Counts one more request, which lies there; the last one that did may still be read."""
    sent = get(area, SENT)
    if (sent - get(area, TAKEN)) % 2**32 >= 64:
        return time.sleep(0.0005)
    put(area, 256 + 8 * (sent % 64), *place)
    put(area, SENT, sent + 1)
    if get(area, ASLEEP):
        say(home, request(0xD04D5202, 2**64 - 1, 0))


def ring(seconds):
    """What lies in the memory that it shares with the host, a quarter of the time each: what looks right first. Then
    nothing does, for good."""
    to_host, to_guest = areas()
    home = port("dormouse.fuse")
    begun()
    stop_agent()
    # No bells: nobody reads them.
    put(to_guest, ASLEEP, 0)
    with open("/var/said", "w") as said:
        for work in (changed, flood, kept, broken):
            before = get(to_host, TAKEN), get(to_guest, SENT)
            end = work(seconds / 4, to_host, to_guest, home)
            now = get(to_host, TAKEN), get(to_guest, SENT)
            passed = [(now - before) % 2**32 for now, before in zip(now, before)]
            said.write(f"{work.__name__} {end or passed}\n")
            said.flush()
            os.fsync(said.fileno())
    over("ring")
    until(600, lambda: scribble(to_host), lambda: scribble(to_guest))


def changed(seconds, to_host, to_guest, home):
    """Requests that change while the host reads them."""
    pieces = [
        request(1, 7, 1, b"guest.py\0"),
        request(16, 7, 1, struct.pack("=QQIIQII", 0, 0, 4000, 0, 0, 0, 0) + bytes(4000)),
        request(42, 0, 0, struct.pack("=II", 100, 0) + b"\xff" * 1600),
        request(44, 7, 1, struct.pack("=QQIIQII", 0, 0, 2**32 - 1, 0, 0, 0, 0)),
        request(3, 7, 1, bytes(16)),
    ]

    def change():
        tell(to_host, home, lay(to_host, noise.choice(pieces)))
        put(to_host, 4096 + 4 * noise.randrange(20), noise.choice((0, 1, 40, 4096, 2**32 - 1)))
        put(to_guest, TAKEN, get(to_guest, SENT))

    until(seconds, change)


def flood(seconds, to_host, to_guest, home):
    """The largest that there are, which wait for the store, and one piece of memory for all of them."""
    sync = lay(to_host, request(20, 7, 1, bytes((1 << 20) - 40)))
    touched = struct.pack("=IIQQQQQQIII", 1 << 5, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0) + bytes(20)
    touch = lay(to_host, request(4, 7, 1, touched), 1 << 20)

    def more():
        tell(to_host, home, touch)
        for _ in range(50):
            tell(to_host, home, sync)
        put(to_guest, TAKEN, get(to_guest, SENT))

    until(seconds, more)


def kept(seconds, to_host, to_guest, home):
    """Questions whose answers are not taken; the host may have some of the flood to answer before it hears any."""
    ask = lay(to_host, request(3, 7, 1, bytes(16)))
    for _ in range(15):
        until(seconds / 2, lambda: put(to_guest, TAKEN, get(to_guest, SENT)))
        before = get(to_host, TAKEN), get(to_guest, SENT)
        until(seconds / 2, lambda: tell(to_host, home, ask))
        passed = (get(to_host, TAKEN) - before[0]) % 2**32, (get(to_guest, SENT) - before[1]) % 2**32
        if passed[0] > 0:
            break
    return list(passed)


def broken(seconds, to_host, to_guest, home):
    """Counts, places and lengths of anything. Afterwards a request as any other, to which nobody may listen."""
    until(seconds / 2, lambda: scribble(to_host), lambda: scribble(to_guest))
    taken = get(to_host, TAKEN)
    put(to_host, SENT, taken)
    put(to_guest, TAKEN, get(to_guest, SENT))
    ask = lay(to_host, request(3, 7, 1, bytes(16)))
    until(seconds / 2, lambda: tell(to_host, home, ask))
    return "heard" if get(to_host, TAKEN) != taken else "not heard"


def scribble(area):
    odd = noise.choice((0, 1, 39, 64, 65, 1 << 21, 2**31, 2**32 - 1, noise.randrange(2**32)))
    put(area, noise.choice((SENT, TAKEN, ASLEEP, 256 + 4 * noise.randrange(128))), odd)


def console(seconds):
    out = os.open("/dev/ttyS0", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    begun()
    until(seconds, lambda: say(out, b"\x1b[2J" + noise.randbytes(2000)))


def output(seconds):
    """Without an end, as `yes`, in pieces of any size."""
    end = time.monotonic() + seconds
    begun()
    while time.monotonic() < end:
        os.write(noise.choice((1, 2)), b"y" * noise.choice((1, 100, 65536)))


def forks(seconds):
    """Processes and memory until there are no more."""
    begun()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if os.fork() == 0:
                held = bytearray(4 << 20)
                time.sleep(max(0, end - time.monotonic()))
                os._exit(len(held) & 1)
        except OSError:
            time.sleep(0.01)


def fill(seconds):
    """The home, then the upper, as far as they go or until the time is over."""
    begun()
    end = time.monotonic() + seconds
    for folder, whole in (("/root", 0.7), ("/var", 1.0)):
        try:
            with open(f"{folder}/fill", "wb", buffering=0) as file:
                # Counted as used at once, so that there is little left to fill.
                try:
                    os.posix_fallocate(file.fileno(), 0, 980 << 20)
                    file.seek(0, 2)
                except OSError:
                    pass
                while time.monotonic() < end - seconds * (1 - whole):
                    file.write(noise.randbytes(1 << 20))
        except OSError as error:
            print(folder, error.strerror, flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](float(sys.argv[2]))
    print("done", flush=True)
