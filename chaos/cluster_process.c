/* The nodes' processes.
 *
 * Happy path: a caller asks the keeper (ask_start); the keeper forks; the child enters its namespace, mounts
 * its disk and becomes dunlind; the keeper polls the pidfd, reaps the process when it ends, says so (settle)
 * and, when nobody wanted that, remembers a crash. */
#include "chaos/cluster_internal.h"

#include "base/clock.h"
#include "chaos/proxy.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_FAILED 126 /* exit code of a child that did not get as far as dunlind */
#define ENVIRONMENT_MAX 256
#define NAME_MAX_BYTES 24
#define BROKER_HEAP "256m"
#define JAVA_ENDED 143 /* exit code of a Java program that left on SIGTERM */

/* ---- a program that ends by itself ------------------------------------------------------------------------
 */

static void read_all(int fd, char *text, size_t size)
{
    char rest[512];
    size_t length = 0;

    for (;;) {
        bool full = length + 1 >= size;
        ssize_t n = full ? read(fd, rest, sizeof rest) : read(fd, text + length, size - 1 - length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        length += full ? 0 : (size_t)n;
    }
    text[length] = 0;
}

enum dn_code cluster_command(const char *const *arguments, char *ret_output, size_t size, int *ret_status,
                             struct dn_error *err)
{
    posix_spawn_file_actions_t actions;
    int ends[2], status;
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return dn_fail(err, DN_EXHAUSTED, "a pipe to run '%s': %s", arguments[0], strerror(errno));
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 2);
    int rv = posix_spawnp(&pid, arguments[0], &actions, NULL, (char *const *)arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (rv != 0) {
        close(ends[0]);
        return dn_fail(err, DN_UNAVAILABLE, "run '%s': %s", arguments[0], strerror(rv));
    }
    read_all(ends[0], ret_output, size);
    close(ends[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    *ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return DN_OK;
}

/* ---- crashes ----------------------------------------------------------------------------------------------
 */

/* Lock held. */
static void note_crash(struct chaos_cluster *c, unsigned node, const char *text)
{
    if (c->crash_count == CLUSTER_CRASHES_MAX)
        return;
    struct chaos_crash *crash = &c->crashes[c->crash_count++];
    crash->node = node;
    crash->time_ms = (int64_t)((dn_monotonic_us() - c->begun_us) / 1000);
    snprintf(crash->text, sizeof crash->text, "%s", text);
}

void cluster_crash(struct chaos_cluster *c, unsigned node, const char *text)
{
    pthread_mutex_lock(&c->lock);
    note_crash(c, node, text);
    pthread_mutex_unlock(&c->lock);
}

/* ---- the child --------------------------------------------------------------------------------------------
 */

struct child {
    const char *program, *log;
    char *const *arguments;
    char **environment;
    int space; /* -1: none */
    pid_t parent;
};

_Noreturn static void child_failed(const char *what)
{
    const char *why = strerrordesc_np(errno);
    const char *const parts[] = {"dunlin-chaos: ", what, ": ", why == NULL ? "?" : why, "\n"};

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        (void)!write(2, parts[i], strlen(parts[i]));
    _exit(CHILD_FAILED);
}

/* Between fork and exec of a program with threads: system calls only. */
_Noreturn static void child_run(const struct child *child, const struct cluster_node *node)
{
    sigset_t none;
    int log = open(child->log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    int nothing = open("/dev/null", O_RDONLY);

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (log < 0 || nothing < 0)
        _exit(CHILD_FAILED);
    dup2(nothing, 0);
    dup2(log, 1);
    dup2(log, 2);
    setpgid(0, 0); /* a terminal's Ctrl-C is this program's affair */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != child->parent)
        child_failed("its parent has ended");
    if (child->space >= 0 && setns(child->space, CLONE_NEWNET) != 0)
        child_failed("enter its network namespace");
    if (node->device[0] != 0 && !cluster_disk_mount(node))
        child_failed("mount its disk");
    execve(child->program, child->arguments, child->environment);
    child_failed("run dunlind");
}

/* ---- the keeper
 * -------------------------------------------------------------------------------------------- */

/* The program's environment and what this node gets beside it. The array is to be freed, not the texts. */
static char **environment_of(const struct chaos_cluster *c, const struct cluster_node *node, char *clock_file)
{
    static char preload[] = "LD_PRELOAD=" CLUSTER_FAKETIME,
                real_monotonic[] = "FAKETIME_DONT_FAKE_MONOTONIC=1", look[] = "FAKETIME_CACHE_DURATION=1";
    char **all = calloc(ENVIRONMENT_MAX, sizeof *all);
    size_t count = 0;

    if (all == NULL)
        return NULL;
    for (char **e = environ; *e != NULL && count < ENVIRONMENT_MAX - 8; e++)
        all[count++] = *e;
    if (c->environment != NULL)
        all[count++] = c->environment;
    if (node->faked_clock) {
        all[count++] = preload;
        all[count++] = real_monotonic;
        all[count++] = look;
        all[count++] = clock_file;
    }
    return all;
}

static bool is_broker(const struct chaos_cluster *c, const struct cluster_node *node)
{
    return node == &c->nodes[CLUSTER_BROKER];
}

/* Lock held. */
static enum dn_code spawn_child(struct chaos_cluster *c, struct cluster_node *node, struct child *child,
                                struct dn_error *err)
{
    char clock_file[CLUSTER_PATH_MAX + 32];

    snprintf(clock_file, sizeof clock_file, "FAKETIME_TIMESTAMP_FILE=%s", node->clock);
    child->environment = environment_of(c, node, clock_file);
    if (child->environment == NULL)
        return dn_fail(err, DN_NO_MEMORY, "start %s", node->name);
    pid_t pid = fork();
    if (pid == 0)
        child_run(child, node);
    free(child->environment);
    if (pid < 0)
        return dn_fail(err, DN_EXHAUSTED, "start %s: fork: %s", node->name, strerror(errno));
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0) {
        int why = errno;
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        return dn_fail(err, DN_UNAVAILABLE, "start %s: pidfd_open: %s", node->name, strerror(why));
    }
    fcntl(pidfd, F_SETFD, FD_CLOEXEC);
    node->pid = pid;
    node->pidfd = pidfd;
    node->paused = false;
    node->lives++;
    if (c->proxy != NULL && !is_broker(c, node))
        proxy_process(c->proxy, node->number, pid);
    return DN_OK;
}

/* Lock held. The script becomes the broker: the same process. */
static enum dn_code spawn_broker(struct chaos_cluster *c, struct cluster_node *node, struct dn_error *err)
{
    char host[sizeof c->topic.brokers];
    char *colon;

    snprintf(host, sizeof host, "%s", c->topic.brokers);
    colon = strchr(host, ':');
    DN_ASSERT(colon != NULL);
    *colon = '\0';
    /* For so long (9 s by default) a controller thinks that a killed broker still runs, and lets no new one
     * in. */
    const char *const session = "broker.session.timeout.ms=2000", *const beat =
                                                                      "broker.heartbeat.interval.ms=500";
    const char *const words[] = {c->broker_script, "run",        node->data, "--host",    host,
                                 "--port",         colon + 1,    "--heap",   BROKER_HEAP, "--property",
                                 session,          "--property", beat,       NULL};
    struct child child = {.program = c->broker_script,
                          .log = node->log,
                          .arguments = (char *const *)words,
                          .space = -1,
                          .parent = getpid()};
    return spawn_child(c, node, &child, err);
}

/* Lock held. */
static enum dn_code spawn(struct chaos_cluster *c, struct cluster_node *node, struct dn_error *err)
{
    char *const arguments[] = {c->dunlind, (char *)"--config", node->config, NULL};
    struct child child = {
        .program = c->dunlind, .log = node->log, .arguments = arguments, .space = -1, .parent = getpid()};

    if (node->pid != 0)
        return DN_OK;
    if (is_broker(c, node))
        return spawn_broker(c, node, err);
    if (c->sw != NULL)
        child.space = net_switch_space(c->sw, node->number);
    return spawn_child(c, node, &child, err);
}

/* For people: "node 2", "the broker". */
static void name_of(const struct chaos_cluster *c, const struct cluster_node *node,
                    char ret_name[NAME_MAX_BYTES])
{
    if (is_broker(c, node))
        snprintf(ret_name, NAME_MAX_BYTES, "the broker");
    else
        snprintf(ret_name, NAME_MAX_BYTES, "node %u", node->number);
}

/* Lock held: the process of this node has ended. */
static void settle(struct chaos_cluster *c, struct cluster_node *node)
{
    char text[128], name[NAME_MAX_BYTES];
    int status = 0;

    if (waitpid(node->pid, &status, WNOHANG) != node->pid)
        return;
    close(node->pidfd);
    node->pid = 0;
    node->pidfd = -1;
    node->paused = false;
    node->status = status;
    if (c->proxy != NULL && !is_broker(c, node))
        proxy_process(c->proxy, node->number, 0);
    if (node->expected)
        return;
    name_of(c, node, name);
    if (WIFSIGNALED(status))
        snprintf(text, sizeof text, "%s was ended by signal %d (%s)", name, WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(text, sizeof text, "%s ended by itself with code %d", name, WEXITSTATUS(status));
    note_crash(c, node->number, text);
}

static void serve_request(struct chaos_cluster *c)
{
    struct cluster_request *r = &c->request;

    if (r->node == NULL || r->done)
        return;
    bool was_down = r->node->pid == 0;
    r->code = spawn(c, r->node, r->err);
    if (was_down)
        r->node->expected = r->refuses; /* before anybody can see that it has ended */
    r->done = true;
}

static void *keep(void *data)
{
    struct chaos_cluster *c = data;
    struct pollfd fds[CHAOS_NODES_MAX + 2]; /* by place, the broker's too; behind them: wake */
    eventfd_t count;

    pthread_mutex_lock(&c->lock);
    while (!c->stop) {
        fds[c->count + 1] = (struct pollfd){.fd = c->wake, .events = POLLIN};
        for (unsigned i = 0; i <= c->count; i++)
            fds[i] = (struct pollfd){.fd = c->nodes[i].pid == 0 ? -1 : c->nodes[i].pidfd, .events = POLLIN};
        pthread_mutex_unlock(&c->lock);
        (void)poll(fds, c->count + 2, -1);
        pthread_mutex_lock(&c->lock);
        (void)eventfd_read(c->wake, &count);
        for (unsigned i = 0; i <= c->count; i++)
            if (fds[i].fd >= 0 && fds[i].revents != 0 && c->nodes[i].pid != 0)
                settle(c, &c->nodes[i]);
        serve_request(c);
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

enum dn_code cluster_keeper_start(struct chaos_cluster *c, struct dn_error *err)
{
    c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->wake < 0)
        return dn_fail(err, DN_EXHAUSTED, "eventfd: %s", strerror(errno));
    if (pthread_create(&c->keeper, NULL, keep, c) != 0)
        return dn_fail(err, DN_EXHAUSTED, "no thread to keep the nodes' processes");
    c->keeper_runs = true;
    return DN_OK;
}

void cluster_keeper_stop(struct chaos_cluster *c)
{
    if (!c->keeper_runs)
        return;
    for (unsigned i = 1; i <= c->count; i++)
        cluster_node_kill(c, i);
    cluster_node_kill(c, CLUSTER_BROKER);
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_mutex_unlock(&c->lock);
    (void)eventfd_write(c->wake, 1);
    pthread_join(c->keeper, NULL);
    c->keeper_runs = false;
    close(c->wake);
}

/* ---- what callers ask for
 * ---------------------------------------------------------------------------------- */

static enum dn_code start(struct chaos_cluster *c, unsigned node, bool refuses, struct dn_error *err)
{
    pthread_mutex_lock(&c->lock);
    DN_ASSERT(node <= c->count && c->request.node == NULL);
    c->request = (struct cluster_request){.node = &c->nodes[node], .refuses = refuses, .err = err};
    (void)eventfd_write(c->wake, 1);
    while (!c->request.done)
        pthread_cond_wait(&c->changed, &c->lock);
    enum dn_code code = c->request.code;
    c->request.node = NULL;
    pthread_mutex_unlock(&c->lock);
    return code;
}

enum dn_code cluster_node_start(struct chaos_cluster *c, unsigned node, struct dn_error *err)
{
    return start(c, node, false, err);
}

enum dn_code cluster_node_start_refused(struct chaos_cluster *c, unsigned node, struct dn_error *err)
{
    return start(c, node, true, err);
}

/* Lock held. */
static void send_signal(struct cluster_node *n, int number)
{
    if (n->pid != 0)
        (void)syscall(SYS_pidfd_send_signal, n->pidfd, number, NULL, 0);
}

void cluster_node_signal(struct chaos_cluster *c, unsigned node, int number)
{
    pthread_mutex_lock(&c->lock);
    send_signal(&c->nodes[node], number);
    pthread_mutex_unlock(&c->lock);
}

void cluster_node_pause(struct chaos_cluster *c, unsigned node, bool paused)
{
    pthread_mutex_lock(&c->lock);
    send_signal(&c->nodes[node], paused ? SIGSTOP : SIGCONT);
    c->nodes[node].paused = paused && c->nodes[node].pid != 0;
    pthread_mutex_unlock(&c->lock);
}

void cluster_node_expect_end(struct chaos_cluster *c, unsigned node)
{
    pthread_mutex_lock(&c->lock);
    c->nodes[node].expected = true;
    pthread_mutex_unlock(&c->lock);
}

bool cluster_node_is_paused(struct chaos_cluster *c, unsigned node)
{
    pthread_mutex_lock(&c->lock);
    bool paused = c->nodes[node].paused;
    pthread_mutex_unlock(&c->lock);
    return paused;
}

/* Lock held. */
static bool wait_end(struct chaos_cluster *c, unsigned node, unsigned timeout_ms)
{
    struct timespec end;

    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000;
    }
    while (c->nodes[node].pid != 0)
        if (pthread_cond_clockwait(&c->changed, &c->lock, CLOCK_MONOTONIC, &end) == ETIMEDOUT)
            break;
    return c->nodes[node].pid == 0;
}

bool cluster_node_wait_end(struct chaos_cluster *c, unsigned node, unsigned timeout_ms)
{
    pthread_mutex_lock(&c->lock);
    bool ended = wait_end(c, node, timeout_ms);
    pthread_mutex_unlock(&c->lock);
    return ended;
}

void cluster_node_kill(struct chaos_cluster *c, unsigned node)
{
    pthread_mutex_lock(&c->lock);
    c->nodes[node].expected = true;
    send_signal(&c->nodes[node], SIGKILL);
    if (!wait_end(c, node, CLUSTER_STOP_MS)) /* it hangs in the kernel, in a disk of ours */
        note_crash(c, node, "it did not end within a minute of SIGKILL");
    pthread_mutex_unlock(&c->lock);
}

static void judge_stop(struct chaos_cluster *c, const struct cluster_node *n)
{
    char text[128], name[NAME_MAX_BYTES];
    int good = is_broker(c, n) ? JAVA_ENDED : 0;

    name_of(c, n, name);
    if (n->pid != 0)
        snprintf(text, sizeof text, "%s did not leave within %d s of SIGTERM", name, CLUSTER_STOP_MS / 1000);
    else if (WIFSIGNALED(n->status))
        snprintf(text, sizeof text, "%s left on SIGTERM by signal %d", name, WTERMSIG(n->status));
    else if (WEXITSTATUS(n->status) != good)
        snprintf(text, sizeof text, "%s left on SIGTERM with code %d", name, WEXITSTATUS(n->status));
    else
        return;
    note_crash(c, n->number, text);
}

void cluster_node_stop(struct chaos_cluster *c, unsigned node)
{
    struct cluster_node *n = &c->nodes[node];

    pthread_mutex_lock(&c->lock);
    bool ended = n->pid == 0;
    if (!ended) {
        n->expected = true;
        n->paused = false;
        send_signal(n, SIGCONT);
        send_signal(n, SIGTERM);
        ended = wait_end(c, node, CLUSTER_STOP_MS);
        judge_stop(c, n);
    }
    pthread_mutex_unlock(&c->lock);
    if (!ended)
        cluster_node_kill(c, node);
}
