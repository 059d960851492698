/* _spawn: fork an isolated helper from a zygote.  Runs inside a zygote, and for the child's first steps inside
 * the helper.  One clone3, then the child's isolation in C, before any Python runs in it (DESIGN section 5).
 *
 * Raw clone3 skips what glibc's fork does, so four things are done by hand (research: fork-primitives):
 * the thread id is written where glibc keeps it, the robust list is registered again, all signals are blocked
 * across the call, and the caller has one thread (checked in Python before each spawn): locks of other threads
 * would stay taken in the child for ever.
 *
 * The child is a child of the zygote's parent (CLONE_PARENT): pagurusd reaps it.  When a step of the child fails
 * it sends {"kind":"failed","step":...,"errno":N} on its control socket and exits with status 70.
 */
#define _GNU_SOURCE
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

enum { CONTROL_FD = 3, INVOCATION_FD = 4, FIRST_FOREIGN_FD = 5, TASKS_MAX = 8, CAPABILITIES_MAX = 64 };
enum { EXIT_STEP_FAILED = 70 };

/* Everything the child needs; filled by the parent, read by the child from its copy of the memory. */
struct request {
    int control, invocation, out, err;
    int cgroup;               /* -1: no cgroup v2 */
    int tasks[TASKS_MAX];     /* v1 `tasks` files, opened by pagurusd */
    int tasks_count;
    int net, mnt;
    const char *hostname;
    unsigned int uid;
    int reports;              /* send "parked" from here: the helper is to take its function at once */
};

static struct sock_filter *filter;
static unsigned short filter_length;
static int *tid_address;
static void *robust_list;
static size_t robust_list_length;
static int bounding[CAPABILITIES_MAX];
static int bounding_count;

/* What /proc tells of the machine that neither modes nor the read-only mount take from a user without capabilities,
 * and that tells of others: above all interrupts, whose counts follow what neighbours do. Directories get an empty
 * one over them, files /dev/null. Each costs a start some 7 us, so what needs no mask has none: kcore, kmsg,
 * timer_list, slabinfo... belong to the host's root, and keys are shown to their namespace only. */
static const char *const hidden[] = {"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/scsi"};
enum { HIDDEN_MAX = sizeof hidden / sizeof hidden[0] };
static struct mask {
    const char *place, *cover;
} masks[HIDDEN_MAX];
static int masks_count;
static int64_t called_ns, running_ns, isolated_ns;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int load_filter(struct sock_filter *code, unsigned short length) {
    struct sock_fprog program = {length, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

/* A copy of a seccomp program given as bytes; NULL with an exception set. The caller frees it. */
static struct sock_filter *copy_program(PyObject *program, unsigned short *length) {
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(program, &bytes, &size) < 0) return NULL;
    if (size == 0 || size % sizeof(struct sock_filter) || size / sizeof(struct sock_filter) > BPF_MAXINSNS) {
        PyErr_SetString(PyExc_ValueError, "not a seccomp program");
        return NULL;
    }
    struct sock_filter *copy = malloc((size_t)size);
    if (!copy) return (struct sock_filter *)PyErr_NoMemory();
    memcpy(copy, bytes, (size_t)size);
    *length = (unsigned short)(size / sizeof(struct sock_filter));
    return copy;
}

static PyObject *confine(PyObject *self, PyObject *program) {
    (void)self;
    unsigned short length;
    struct sock_filter *code = copy_program(program, &length);
    if (!code) return NULL;
    int result = load_filter(code, length);
    free(code);
    if (result < 0) return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *configure(PyObject *self, PyObject *program) {
    (void)self;
    struct sock_filter *copy = copy_program(program, &filter_length);
    if (!copy) return NULL;
    free(filter);
    filter = copy;
    /* Where glibc keeps the caller's thread id; wants CONFIG_CHECKPOINT_RESTORE. */
    if (prctl(PR_GET_TID_ADDRESS, &tid_address, 0, 0, 0) < 0) return PyErr_SetFromErrno(PyExc_OSError);
    if (syscall(SYS_get_robust_list, 0, &robust_list, &robust_list_length) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    bounding_count = 0;
    for (int c = 0; c < CAPABILITIES_MAX; c++)
        if (prctl(PR_CAPBSET_READ, c, 0, 0, 0) == 1) bounding[bounding_count++] = c;
    masks_count = 0;
    for (int i = 0; i < HIDDEN_MAX; i++) {
        struct stat found;
        if (stat(hidden[i], &found) < 0) continue; /* this kernel lacks it */
        masks[masks_count++] = (struct mask){hidden[i], S_ISDIR(found.st_mode) ? "/sys" : "/dev/null"};
    }
    Py_RETURN_NONE;
}

static int join_cgroups(const struct request *r) {
    /* A task that moves itself ("0") through v1 `tasks` avoids the 8 ms grace period that moving another
     * costs; it must happen while the child has one thread. */
    for (int i = 0; i < r->tasks_count; i++)
        if (write(r->tasks[i], "0", 1) != 1) return -1;
    return 0;
}

static int mount_proc(void) {
    /* Read-only costs nothing and takes away all of /proc/sys and what a process can write of itself. */
    const unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (mount("proc", "/proc", "proc", flags, NULL) < 0) return -1;
    for (int i = 0; i < masks_count; i++)
        if (mount(masks[i].cover, masks[i].place, NULL, MS_BIND, NULL) < 0) return -1;
    return 0;
}

static int place(int fd, int target) {
    if (fd == target) return fcntl(fd, F_SETFD, FD_CLOEXEC);
    return dup3(fd, target, O_CLOEXEC);
}

static int place_descriptors(const struct request *r) {
    /* All received descriptors are above CONTROL_FD, and control is placed first: nothing is overwritten. */
    if (dup2(r->out, 1) < 0 || dup2(r->err, 2) < 0) return -1;
    if (place(r->control, CONTROL_FD) < 0 || place(r->invocation, INVOCATION_FD) < 0) return -1;
    return (int)syscall(SYS_close_range, FIRST_FOREIGN_FD, ~0U, 0);
}

static int drop_bounding(void) {
    for (int i = 0; i < bounding_count; i++)
        if (prctl(PR_CAPBSET_DROP, bounding[i], 0, 0, 0) < 0) return -1;
    return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

static int become(unsigned int uid) {
    if (syscall(SYS_setgroups, 0, NULL) < 0) return -1;
    if (syscall(SYS_setresgid, uid, uid, uid) < 0) return -1;
    return (int)syscall(SYS_setresuid, uid, uid, uid);
}

static int drop_capabilities(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    memset(data, 0, sizeof data);
    return (int)syscall(SYS_capset, &header, data);
}

static int check_powerless(unsigned int uid) {
    /* The one step that must never be believed on trust: a wrong map leaves CapEff full after setresuid. The
     * ambient set cannot have what permitted and inheritable lack, and what the bounding set lacked in the zygote
     * never comes back: pagurusd, which reads all five sets of each helper afterwards, asks for them too. */
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) < 0) return -1;
    errno = EPERM;
    for (int i = 0; i < 2; i++)
        if (data[i].effective | data[i].permitted | data[i].inheritable) return -1;
    for (int i = 0; i < bounding_count; i++)
        if (prctl(PR_CAPBSET_READ, bounding[i], 0, 0, 0) != 0) return -1;
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return -1;
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != SECCOMP_MODE_FILTER) return -1;
    uid_t ids[6];
    if (getresuid(&ids[0], &ids[1], &ids[2]) < 0 || getresgid(&ids[3], &ids[4], &ids[5]) < 0) return -1;
    errno = EPERM;
    for (int i = 0; i < 6; i++)
        if (ids[i] != uid) return -1;
    return getgroups(0, NULL) == 0 ? 0 : -1;
}

/* Isolate the calling process; NULL, or the name of the step that failed (errno says why). */
static const char *isolate(const struct request *r, int *report) {
    *report = r->control;
    if (join_cgroups(r) < 0) return "cgroup";
    /* After the v1 joins, so that the namespace hides the v1 paths too. */
    if (unshare(CLONE_NEWCGROUP) < 0) return "unshare cgroup";
    if (setns(r->net, CLONE_NEWNET) < 0) return "setns net";
    if (setns(r->mnt, CLONE_NEWNS) < 0) return "setns mnt";
    if (mount_proc() < 0) return "mount proc";
    if (sethostname(r->hostname, strlen(r->hostname)) < 0) return "sethostname";
    if (setsid() < 0) return "setsid";
    if (place_descriptors(r) < 0) return "descriptors";
    *report = CONTROL_FD;
    if (drop_bounding() < 0) return "bounding set";
    if (become(r->uid) < 0) return "setresuid";
    if (drop_capabilities() < 0) return "capset";
    /* No dump of its memory, and none for its zygote to look at: the host may have fs.suid_dumpable set. */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return "dumpable";
    if (load_filter(filter, filter_length) < 0) return "seccomp";
    if (check_powerless(r->uid) < 0) return "capability check";
    return NULL;
}

static void report_failure(int fd, const char *step, int code) {
    char text[128];
    int length = PyOS_snprintf(text, sizeof text, "{\"kind\":\"failed\",\"step\":\"%s\",\"errno\":%d}", step, code);
    (void)!send(fd, text, (size_t)length, MSG_NOSIGNAL);
}

static void report_parked(void) {
    /* In C, since every line of Python that runs first in a helper costs it pages. */
    char text[128];
    int length = PyOS_snprintf(text, sizeof text, "{\"kind\":\"parked\",\"ns\":{\"fork\":%lld,\"isolate\":%lld}}",
                               (long long)(running_ns - called_ns), (long long)(isolated_ns - running_ns));
    (void)!send(CONTROL_FD, text, (size_t)length, MSG_NOSIGNAL);
}

static int parse(PyObject *arguments, struct request *r) {
    PyObject *tasks;
    if (!PyArg_ParseTuple(arguments, "iiiiiOiisIp", &r->control, &r->invocation, &r->out, &r->err, &r->cgroup, &tasks,
                          &r->net, &r->mnt, &r->hostname, &r->uid, &r->reports))
        return -1;
    Py_ssize_t count = PyTuple_Size(tasks);
    if (count < 0) return -1;
    if (count > TASKS_MAX || r->uid == 0 || !filter) {
        PyErr_SetString(PyExc_ValueError, "too many tasks files, uid 0, or configure() was not called");
        return -1;
    }
    if (r->control <= CONTROL_FD || r->invocation <= CONTROL_FD || r->out <= CONTROL_FD || r->err <= CONTROL_FD) {
        PyErr_SetString(PyExc_ValueError, "descriptors of the helper must be above the zygote's own");
        return -1;
    }
    for (r->tasks_count = 0; r->tasks_count < count; r->tasks_count++) {
        long fd = PyLong_AsLong(PyTuple_GetItem(tasks, r->tasks_count));
        if (fd == -1 && PyErr_Occurred()) return -1;
        r->tasks[r->tasks_count] = (int)fd;
    }
    return 0;
}

static PyObject *spawn(PyObject *self, PyObject *arguments) {
    (void)self;
    struct request r;
    if (parse(arguments, &r) < 0) return NULL;
    int pidfd = -1;
    struct clone_args args;
    memset(&args, 0, sizeof args);
    args.flags = CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PARENT | CLONE_PIDFD | CLONE_CHILD_SETTID |
                 CLONE_CHILD_CLEARTID;
    args.pidfd = (uintptr_t)&pidfd;
    args.child_tid = (uintptr_t)tid_address;
    if (r.cgroup >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)r.cgroup;
    }
    sigset_t all, old;
    sigfillset(&all);
    called_ns = now_ns();
    PyOS_BeforeFork();
    sigprocmask(SIG_BLOCK, &all, &old);
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) { /* the helper: pid 1 of its own pid namespace */
        running_ns = now_ns();
        if (robust_list) syscall(SYS_set_robust_list, robust_list, robust_list_length);
        int report;
        const char *failed = isolate(&r, &report);
        if (failed) {
            report_failure(report, failed, errno);
            _exit(EXIT_STEP_FAILED);
        }
        isolated_ns = now_ns();
        if (r.reports) report_parked();
        sigprocmask(SIG_SETMASK, &old, NULL);
        PyOS_AfterFork_Child();
        return Py_BuildValue("ii", 0, -1);
    }
    int code = errno;
    sigprocmask(SIG_SETMASK, &old, NULL);
    PyOS_AfterFork_Parent();
    if (pid < 0) {
        errno = code;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_BuildValue("li", pid, pidfd);
}

static PyObject *timings(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return Py_BuildValue("LLL", (long long)called_ns, (long long)running_ns, (long long)isolated_ns);
}

static PyMethodDef methods[] = {
    {"confine", confine, METH_O,
     "confine(program): set no_new_privs and load a seccomp program into the caller and all it forks."},
    {"configure", configure, METH_O,
     "configure(program): keep the helper's seccomp program and what clone3 needs of this thread."},
    {"spawn", spawn, METH_VARARGS,
     "spawn(control, invocation, stdout, stderr, cgroup, tasks, net, mnt, hostname, uid, reports) -> (pid, pidfd)\n\n"
     "Fork an isolated helper. In the helper it returns (0, -1) with control on 3 and invocation on 4.\n"
     "reports: whether it says on control that it is isolated, or leaves that to Python.\n"
     "pid is as the zygote sees it; the caller closes pidfd. Raises OSError when clone3 itself fails."},
    {"timings", timings, METH_NOARGS,
     "timings() -> (called, running, isolated): CLOCK_MONOTONIC ns of this helper's spawn."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_spawn", "Fork an isolated helper.", -1, methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__spawn(void) { return PyModule_Create(&module); }
