/* init: pid 1 of a zygote's pid namespace, static, 20 lines.  It is there because pid 1 cannot be the zygote:
 * CLONE_PARENT is refused to pid 1, and the namespace must outlive a zygote that dies.  pagurusd starts it and
 * reaps it; its end ends everything in the namespace.  It reaps orphans and does nothing else. */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>

int main(void) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    for (;;) {
        if (waitpid(-1, NULL, 0) >= 0 || errno != ECHILD) continue;
        siginfo_t info;
        sigset_t child;
        sigemptyset(&child);
        sigaddset(&child, SIGCHLD);
        sigwaitinfo(&child, &info);
    }
}
