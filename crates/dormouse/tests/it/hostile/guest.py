"""A tenant who is root in the guest and means harm: `guest.py MODE SECONDS`.

It takes the agent's descriptors of the virtio ports (pidfd_getfd), and where a mode needs that, stops the
agent's threads for good. Then it says whatever it likes, as the agent to the host. Says "begun" once it
does, and "done" at its end; /var/said tells how much the host took of what.
"""

import ctypes
import os
import random
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
PIDFD_GETFD = 438
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
noise = random.Random(7)
taken, rest = {}, {}


def begun():
    print("begun", flush=True)


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
