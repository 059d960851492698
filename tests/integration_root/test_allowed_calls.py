"""What Python's library and popular packages do works inside a sandbox: nothing that they need is refused."""

import os
import platform

import pytest

from runtime.frames import FrameKind
from tests.node_bed import Bed, in_node

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

RUN = """
import traceback

def main(param):
    failed = {}
    for name, check in CHECKS.items():
        try:
            check()
        except BaseException:
            failed[name] = traceback.format_exc()[-1500:]
    return [sorted(CHECKS), failed]
"""

PROCESSES = """
import asyncio, concurrent.futures, ctypes, multiprocessing, multiprocessing.shared_memory, os, queue, signal
import subprocess, sys, threading, time

def double(x):
    return 2 * x

def threads():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(double, range(64))) == [2 * x for x in range(64)]

def runs():
    done = subprocess.run(["sh", "-c", "read x; echo $x; exit 3"], input=b"x\\n", capture_output=True)
    assert (done.returncode, done.stdout) == (3, b"x\\n"), done
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1, start_new_session=True, umask=7) as process:
        process.terminate()
    assert os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {}), 0)[1]) == 0
    assert os.popen("echo a | (read x; echo $x)").read() == "a\\n"
    fd = os.open("/bin/sh", os.O_RDONLY)
    pid = os.fork()
    if pid == 0:
        os.execve(fd, ["sh", "-c", "exit 0"], {})
    assert os.waitpid(pid, 0)[1] == 0

def pools(method):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(double, range(16)) == [2 * x for x in range(16)]

def shared():
    lock, count, events = multiprocessing.Lock(), multiprocessing.Value("i", 0), multiprocessing.Queue()
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=1 << 16)
    def work():
        with lock:
            count.value += 1
        other = multiprocessing.shared_memory.SharedMemory(memory.name)
        other.buf[0] = 7
        other.close()
        events.put("done")
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    assert events.get(timeout=10) == "done"
    process.join()
    assert (count.value, memory.buf[0]) == (1, 7)
    memory.close()
    memory.unlink()

def managers():
    with multiprocessing.get_context("fork").Manager() as manager:
        shared = manager.dict(a=1)
        assert dict(shared) == {"a": 1}

def loop():
    async def main():
        async def serve(reader, writer):
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\\n")
        assert await reader.read() == b"hello\\n"
        writer.close()
        server.close()
        process = await asyncio.create_subprocess_exec("sh", "-c", "echo 1", stdout=subprocess.PIPE)
        assert (await process.communicate())[0] == b"1\\n"
        got = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, got.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(got.wait(), 5)
        await asyncio.to_thread(time.sleep, 0.001)
    asyncio.run(main())

def signals():
    caught = queue.SimpleQueue()
    for number in (signal.SIGALRM, signal.SIGVTALRM):
        signal.signal(number, lambda number, frame: caught.put(number))
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    assert caught.get(timeout=5) == signal.SIGALRM
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)
    assert signal.sigtimedwait([signal.SIGUSR2], 5).si_signo == signal.SIGUSR2
    pidfd = os.pidfd_open(os.getpid())
    signal.pidfd_send_signal(pidfd, 0)

CHECKS = {"threads": threads, "subprocess": runs, "fork pool": lambda: pools("fork"),
          "spawn pool": lambda: pools("spawn"), "shared memory": shared, "managers": managers, "asyncio": loop,
          "signals": signals}
"""

FILES = """
import bz2, ctypes, fcntl, lzma, mmap, os, select, shutil, socket, sqlite3, ssl, stat, struct, tempfile, time, zlib
import faulthandler, getpass, hashlib, resource, sys, tarfile, uuid, zipfile, zoneinfo

libc = ctypes.CDLL(None, use_errno=True)

def files():
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        with open("a", "wb") as file:
            file.write(b"x" * 10000)
            file.flush()
            os.fsync(file.fileno())
            os.posix_fallocate(file.fileno(), 0, 20000)
            fcntl.flock(file, fcntl.LOCK_EX)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.symlink("a", "b")
        os.link("a", "c")
        os.mkfifo("f")
        assert stat.S_ISFIFO(os.stat("f").st_mode)
        os.rename("c", "d")
        os.chmod("d", 0o600)
        os.utime("d", (1, 1))
        os.truncate("d", 100)
        os.sync()
        assert os.access("d", os.R_OK, effective_ids=True)
        os.mkdir("e")
        shutil.copytree(".", "/tmp/copy", symlinks=True, ignore=lambda d, names: [n for n in names if n == "f"])
        shutil.make_archive("/tmp/archive", "gztar", "e")
        shutil.rmtree("/tmp/copy")
        with open("a", "rb") as one, open("g", "wb") as two:
            os.copy_file_range(one.fileno(), two.fileno(), 50)
        out, into = os.pipe()
        with open("a", "rb") as one:
            assert os.splice(one.fileno(), into, 10) == 10
            assert os.sendfile(into, one.fileno(), 0, 10) == 10
        os.scandir(".").close()
        os.statvfs(".")
        os.chdir("/tmp")

def memory():
    with mmap.mmap(-1, 1 << 20) as area:
        area[:3] = b"abc"
        area.madvise(mmap.MADV_DONTNEED)
        area.resize(1 << 21)
    fd = os.memfd_create("x")
    os.ftruncate(fd, 4096)
    with mmap.mmap(fd, 4096) as area:
        area[0] = 1
        area.flush()
    os.close(fd)

def waiting():
    event = os.eventfd(0)
    epoll = select.epoll()
    epoll.register(event, select.EPOLLIN)
    os.eventfd_write(event, 1)
    assert epoll.poll(5)
    poll = select.poll()
    poll.register(event)
    assert poll.poll(5000) and select.select([event], [], [], 5)[0]
    watch = libc.inotify_init1(0o2000000)
    assert watch >= 0 and libc.inotify_add_watch(watch, b"/tmp", 0x100) >= 0
    open("/tmp/watched", "w").close()
    assert len(os.read(watch, 4096)) >= 16
    timer = libc.timerfd_create(1, 0)
    assert timer >= 0
    assert libc.timerfd_settime(timer, 0, struct.pack("qqqq", 0, 0, 0, 1000), None) == 0
    assert struct.unpack("q", os.read(timer, 8))[0] >= 1
    assert libc.signalfd(-1, struct.pack("16Q", 1 << 11, *[0] * 15), 0) >= 0

def sockets():
    assert socket.getaddrinfo("127.0.0.1", 80) and socket.if_nameindex()
    socket.gethostbyname("localhost")
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as one, socket.socket(family, socket.SOCK_DGRAM) as two:
            one.bind((address, 0))
            two.sendto(b"x", one.getsockname())
            assert one.recv(10) == b"x"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
        one.bind("/tmp/socket")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as one:
        one.bind((0, 0))

def tls():
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    for context in (server, client):
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    a, b, c, d = (ssl.MemoryBIO() for _ in range(4))
    ends = [server.wrap_bio(a, b, server_side=True), client.wrap_bio(b, a)]
    waiting = list(ends)
    for _ in range(20):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not waiting
    ends[0].write(b"hello")
    assert ends[1].read() == b"hello"
    ssl.create_default_context()

def database():
    with sqlite3.connect("/tmp/a.db") as one:
        one.execute("pragma journal_mode=wal")
        one.execute("create table t (x)")
        one.executemany("insert into t values (?)", [(x,) for x in range(1000)])
    assert one.execute("select sum(x) from t").fetchone() == (499500,)

def limits():
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    assert resource.getrlimit(resource.RLIMIT_CORE) == before, "it succeeds and changes nothing"
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    os.nice(1)
    os.getloadavg(), os.cpu_count(), os.times(), resource.getrusage(resource.RUSAGE_SELF)

def the_rest():
    assert lzma.decompress(lzma.compress(b"x")) == bz2.decompress(bz2.compress(b"x")) == b"x"
    hashlib.scrypt(b"a", salt=b"b", n=2, r=8, p=1)
    uuid.uuid1(), uuid.uuid4(), os.urandom(8), time.monotonic_ns(), time.process_time(), time.thread_time()
    faulthandler.dump_traceback_later(60)
    faulthandler.cancel_dump_traceback_later()
    ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 3)()

CHECKS = {"files": files, "memory": memory, "waiting": waiting, "sockets": sockets, "ssl": tls, "sqlite3": database,
          "limits": limits, "others": the_rest}
"""

PACKAGES = """
import http.server, os, threading

def numbers():
    import numpy
    a = numpy.random.default_rng(1).random((300, 300))
    assert numpy.allclose(numpy.linalg.inv(a) @ a, numpy.eye(300))
    numpy.save("/tmp/a.npy", a)
    assert numpy.load("/tmp/a.npy", mmap_mode="r").sum() == a.sum()
    numpy.fft.fft(a)

def frames():
    import pandas
    frame = pandas.DataFrame({"k": list("abab"), "v": range(4), "t": pandas.date_range("2026-01-01", periods=4)})
    frame.to_csv("/tmp/a.csv")
    assert pandas.read_csv("/tmp/a.csv").groupby("k").v.sum().to_dict() == {"a": 2, "b": 4}
    frame.to_pickle("/tmp/a.pickle")

def web():
    import requests
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answer = requests.get(f"http://127.0.0.1:{server.server_port}/", timeout=10)
    assert answer.status_code == 200
    server.shutdown()
    try:
        requests.get("https://192.0.2.1/", timeout=3)
    except requests.ConnectionError:
        pass

def uv():
    import asyncio, uvloop
    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "echo 1", stdout=asyncio.subprocess.PIPE)
        assert (await process.communicate())[0] == b"1\\n"
        server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), "/tmp/uv")
        reader, writer = await asyncio.open_unix_connection("/tmp/uv")
        assert await reader.read() == b""
        await asyncio.get_running_loop().run_in_executor(None, os.listdir, "/")
        await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)
        writer.close()
        server.close()
    uvloop.run(main())

def machine():
    import psutil
    psutil.virtual_memory(), psutil.cpu_percent(), psutil.disk_usage("/tmp"), psutil.Process().memory_info()
    assert psutil.pids() == [1]

CHECKS = {"numpy": numbers, "pandas": frames, "requests": web, "uvloop": uv, "psutil": machine}
"""


async def assert_all_works(bed: Bed, source: str, **settings: object) -> None:
    checked, failed = await bed.result(source + RUN, **settings)
    assert checked and not failed, "\n".join(f"{name}: {text}" for name, text in failed.items())


@in_node()
async def test_processes_threads_and_asyncio_work(bed: Bed):
    await bed.zygote()
    await assert_all_works(bed, PROCESSES)


@in_node()
async def test_files_memory_sockets_tls_and_databases_work(bed: Bed):
    await bed.zygote()
    await assert_all_works(bed, FILES)


@in_node()
async def test_popular_packages_work_imported_in_a_zygote_and_in_a_sandbox(bed: Bed):
    await bed.zygote()
    built = await bed.build("numpy\npandas\nrequests\nuvloop\npsutil\n")
    assert built.environment is not None
    await assert_all_works(bed, PACKAGES, environment=built.environment.id)
    await bed.zygote("packages", [built.environment])
    sandbox = await bed.parked(built.environment.id)
    bed.assign(sandbox, bed.assignment(bed.write_code(PACKAGES + RUN), environment=built.environment.id))
    answer = await bed.call(sandbox)
    assert answer.kind is FrameKind.RESULT and not answer.value[1], answer.value


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls are those of x86_64")
@in_node()
async def test_refusals_have_the_errors_that_programs_expect(bed: Bed):
    await bed.zygote()
    source = """
import ctypes, errno, socket

libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments))
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result

def open_socket(*arguments):
    try:
        socket.socket(*arguments).close()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "opened"

def main(param):
    return {
        "clone3": call(435, 0, 0),
        "a future call": call(1000),
        "an x32 call": call(0x40000000 | 39),
        "get_mempolicy": call(239, 0, 0, 0, 0, 0),
        "prctl SET_MM": call(157, 35, 0, 0, 0, 0),
        "seccomp": call(317, 2, 0, 0),
        "sync": call(162),
        "packet socket": open_socket(17, socket.SOCK_RAW, 0),
        "raw socket": open_socket(socket.AF_INET, socket.SOCK_RAW, 1),
        "vsock": open_socket(40, socket.SOCK_STREAM, 0),
        "alg": open_socket(38, socket.SOCK_SEQPACKET, 0),
        "audit netlink": open_socket(16, socket.SOCK_RAW, 9),
        "ping": open_socket(socket.AF_INET, socket.SOCK_DGRAM, 1),
        "route netlink": open_socket(16, socket.SOCK_RAW, 0),
    }
"""
    assert await bed.result(source) == {
        **dict.fromkeys(("clone3", "a future call", "an x32 call", "get_mempolicy"), "ENOSYS"),
        **dict.fromkeys(("packet socket", "raw socket", "vsock", "alg", "audit netlink", "ping", "seccomp"), "EPERM"),
        "prctl SET_MM": "EINVAL",
        "sync": 0,
        "route netlink": "opened",
    }
