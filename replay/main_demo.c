/* dunlin-demo: what scripts/demo.sh runs once everything is built. Three nodes, a clickstream, one user whose
 * recommendations follow her clicks, leaders killed with SIGKILL, and a count at the end. */
#include "replay/demo.h"

#include "base/clock.h"

#include <argp.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define READY_TIMEOUT_US 30000000u
#define RESTART_AFTER_US 3000000u
#define CLICK_EVERY_US 1500000u
#define STATUS_EVERY_US 250000u
#define KILL_EVERY_US 20000000u /* when it runs without an end */
#define EXIT_LOSS 3

const char *argp_program_version = "dunlin-demo " DUNLIN_VERSION;
static const char summary[] = "Starts three dunlin nodes on loopback, feeds them clicks, and kills leaders.";
static const char user_name[] = "ada";

struct options {
    const char *dunlind, *dunlin, *folder, *events, *catalog;
    unsigned seconds, rate;
};

static const struct argp_option option_list[] = {
    {"dunlind", 'd', "FILE", 0, "the server program", 0},
    {"dunlin", 'c', "FILE", 0, "the client program, which loads the catalogue", 0},
    {"catalog", 'i', "FILE", 0, "the catalogue, JSON lines", 0},
    {"folder", 'f', "DIR", 0, "where data, configurations and logs go", 0},
    {"events", 'e', "FILE", 0, "JSON lines with user and item, as dunlin-replay generate writes them", 0},
    {"seconds", 's', "N", 0,
     "end after N seconds with a check and a summary (default: run until q or Ctrl-C)", 0},
    {"rate", 'r', "N", 0, "clicks a second (default 2000)", 0},
    {0},
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct options *options = state->input;
    char *end = NULL;
    switch (key) {
    case 'd':
        options->dunlind = text;
        return 0;
    case 'f':
        options->folder = text;
        return 0;
    case 'e':
        options->events = text;
        return 0;
    case 'c':
        options->dunlin = text;
        return 0;
    case 'i':
        options->catalog = text;
        return 0;
    case 's':
    case 'r': {
        unsigned long value = strtoul(text, &end, 10);
        if (*text == '\0' || *end != '\0' || value < 1 || value > 1000000) {
            argp_error(state, "'%s' is not a number from 1 to 1000000", text);
        }
        *(key == 's' ? &options->seconds : &options->rate) = (unsigned)value;
        return 0;
    }
    case ARGP_KEY_END:
        if (options->dunlind == NULL || options->folder == NULL || options->events == NULL ||
            options->dunlin == NULL || options->catalog == NULL) {
            argp_error(state, "--dunlind, --dunlin, --folder, --catalog and --events are needed");
        }
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

struct demo {
    struct options options;
    struct demo_cluster cluster;
    struct demo_feed *feed;
    struct demo_screen screen;
    uint64_t started_us, last_status_us, last_draw_us, last_click_us, last_kill_us;
    uint64_t last_acknowledged, last_rate_us;
    uint64_t gap_since_us; /* a leader was killed then, and writes are watched; 0: not now */
    unsigned kills, restarts;
    double worst_gap_ms;
    char next_item[DEMO_TEXT]; /* what ada clicks next: something recommended to her */
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

static struct termios saved_terminal;
static bool terminal_changed;

static void restore_terminal(void)
{
    if (terminal_changed) {
        tcsetattr(STDIN_FILENO, TCSANOW, &saved_terminal);
        printf("\033[?25h");
        fflush(stdout);
        terminal_changed = false;
    }
}

static void prepare_terminal(void)
{
    struct termios raw;
    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &saved_terminal) != 0) {
        return;
    }
    raw = saved_terminal;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    terminal_changed = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
    atexit(restore_terminal);
    printf("\033[2J\033[?25l");
}

static int pressed_key(void)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char key;
    if (!terminal_changed || poll(&input, 1, 0) <= 0 || read(STDIN_FILENO, &key, 1) != 1) {
        return 0;
    }
    return key;
}

/* A connected node other than `not_this` when there is one; -1 when none is. */
static int live_node(const struct demo *demo, int not_this)
{
    int found = -1;
    for (int i = 0; i < DEMO_NODES; i++) {
        if (demo->cluster.nodes[i].client != NULL && (found < 0 || found == not_this)) {
            found = i;
        }
    }
    return found;
}

/* Asks node i for ada's recommendations, as new as the token. */
static bool recommend(struct demo *demo, int i, const ProtobufCBinaryData *token, char list[][DEMO_TEXT],
                      unsigned *ret_n)
{
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    uint8_t buffer[1024], *bytes = NULL;
    size_t length = 0;
    request.user_id = (char *)(uintptr_t)user_name;
    request.k = DEMO_LIST;
    if (token->len > 0) {
        read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION;
        read.token = *token;
        request.read = &read;
    }
    if (dunlin__v1__recommend_request__get_packed_size(&request) > sizeof buffer) {
        return false;
    }
    size_t size = dunlin__v1__recommend_request__pack(&request, buffer);
    if (dn_client_call(demo->cluster.nodes[i].client, "/dunlin.v1.Recommendations/Recommend", buffer, size,
                       1000, &bytes, &length, NULL) != DN_OK) {
        return false;
    }
    Dunlin__V1__RecommendResponse *response = dunlin__v1__recommend_response__unpack(NULL, length, bytes);
    free(bytes);
    if (response == NULL) {
        return false;
    }
    *ret_n = 0;
    for (size_t r = 0; r < response->n_items && r < DEMO_LIST; r++) {
        snprintf(list[r], DEMO_TEXT, "%-14s %s", response->items[r]->id, response->items[r]->source);
        (*ret_n)++;
    }
    if (response->n_items > 0) {
        snprintf(demo->next_item, sizeof demo->next_item, "%s",
                 response->items[demo->screen.click_count % response->n_items]->id);
    }
    dunlin__v1__recommend_response__free_unpacked(response, NULL);
    return true;
}

/* Ada clicks one of the items recommended to her through one node; another answers with her token. */
static void ada_clicks(struct demo *demo)
{
    struct demo_screen *screen = &demo->screen;
    ProtobufCBinaryData token = {0, NULL};
    int writer = live_node(demo, -1), reader = live_node(demo, writer);
    if (writer < 0) {
        return;
    }
    if (!recommend(demo, writer, &token, screen->before, &screen->before_count) ||
        screen->before_count == 0) {
        return;
    }
    if (demo_feed_click(demo->feed, (unsigned)writer, user_name, demo->next_item, &token, NULL) == DN_OK) {
        if (screen->click_count == DEMO_LIST) {
            memmove(screen->clicks[1], screen->clicks[0], sizeof screen->clicks - sizeof screen->clicks[0]);
        } else {
            memmove(screen->clicks[1], screen->clicks[0], screen->click_count * sizeof screen->clicks[0]);
            screen->click_count++;
        }
        snprintf(screen->clicks[0], DEMO_TEXT, "%s", demo->next_item);
        if (recommend(demo, reader, &token, screen->after, &screen->after_count)) {
            snprintf(screen->answered_by, sizeof screen->answered_by, "click at node-%d, answer by node-%d",
                     writer + 1, reader + 1);
        }
    }
    free(token.data);
}

static void print_lists(struct demo *demo, const char *title)
{
    const struct demo_screen *screen = &demo->screen;
    if (screen->terminal || screen->click_count == 0) {
        return;
    }
    printf("%s: %s clicked %s (%s)\n", title, user_name, screen->clicks[0], screen->answered_by);
    for (unsigned i = 0; i < 5 && (i < screen->before_count || i < screen->after_count); i++) {
        printf("    before: %-34.34s now: %-34.34s\n", i < screen->before_count ? screen->before[i] : "",
               i < screen->after_count ? screen->after[i] : "");
    }
    fflush(stdout);
}

static void kill_node(struct demo *demo, int i)
{
    if (i < 0 || demo->cluster.nodes[i].pid == 0) {
        return;
    }
    unsigned leads = demo->cluster.nodes[i].leads;
    print_lists(demo, "before the kill");
    demo_feed_reset_gap(demo->feed);
    demo->gap_since_us = dn_monotonic_us();
    demo_node_kill(&demo->cluster, (unsigned)i);
    demo->kills++;
    demo_say(&demo->screen, "kill -9 node-%d, leader of %u groups", i + 1, leads);
}

/* Writes to the groups of a dead leader wait for the next one: the longest pause between acknowledgements
 * after the kill is what a client felt at most. It is read 2 s later. */
static void watch_gap(struct demo *demo)
{
    struct demo_feed_stats stats;
    if (demo->gap_since_us == 0 || dn_monotonic_us() - demo->gap_since_us < 2000000u) {
        return;
    }
    demo_feed_stats(demo->feed, &stats);
    double gap_ms = (double)stats.worst_gap_us / 1000.0;
    demo->worst_gap_ms = gap_ms > demo->worst_gap_ms ? gap_ms : demo->worst_gap_ms;
    demo_say(&demo->screen, "longest pause between acknowledged clicks after the kill: %.0f ms", gap_ms);
    demo->gap_since_us = 0;
    print_lists(demo, "after the kill");
}

static void tend_nodes(struct demo *demo)
{
    uint64_t now_us = dn_monotonic_us();
    for (unsigned i = 0; i < DEMO_NODES; i++) {
        struct demo_node *node = &demo->cluster.nodes[i];
        if (demo_node_reap(&demo->cluster, i)) {
            demo_say(&demo->screen, "node-%u died (see %s)", i + 1, node->log);
        }
        if (node->pid == 0 && node->killed_us != 0 && now_us - node->killed_us > RESTART_AFTER_US &&
            demo_node_spawn(&demo->cluster, i, NULL) == DN_OK) {
            demo->restarts++;
            demo_say(&demo->screen, "node-%u started again", i + 1);
        }
    }
    if (now_us - demo->last_status_us >= STATUS_EVERY_US) {
        demo->last_status_us = now_us;
        for (unsigned i = 0; i < DEMO_NODES; i++) {
            demo_node_refresh(&demo->cluster, i);
        }
    }
}

static void handle_key(struct demo *demo)
{
    switch (pressed_key()) {
    case '1':
        kill_node(demo, 0);
        break;
    case '2':
        kill_node(demo, 1);
        break;
    case '3':
        kill_node(demo, 2);
        break;
    case 'k':
        kill_node(demo, demo_cluster_leader(&demo->cluster));
        break;
    case 'q':
        interrupted = 1;
        break;
    default:
        break;
    }
}

static void redraw(struct demo *demo)
{
    uint64_t now_us = dn_monotonic_us();
    uint64_t every_us = demo->screen.terminal ? 200000u : 1000000u;
    if (now_us - demo->last_draw_us < every_us) {
        return;
    }
    demo->last_draw_us = now_us;
    demo_feed_stats(demo->feed, &demo->screen.feed);
    if (now_us - demo->last_rate_us >= 1000000u) {
        demo->screen.clicks_per_s = (double)(demo->screen.feed.acknowledged - demo->last_acknowledged) * 1e6 /
                                    (double)(now_us - demo->last_rate_us);
        demo->last_acknowledged = demo->screen.feed.acknowledged;
        demo->last_rate_us = now_us;
    }
    demo_draw(&demo->screen);
}

/* With an end: leaders die at one third and at two thirds. Without: every KILL_EVERY_US. */
static void kill_on_schedule(struct demo *demo, uint64_t now_us)
{
    uint64_t every_us = demo->options.seconds > 0 ? demo->options.seconds * 1000000ull / 3 : KILL_EVERY_US;
    bool more = demo->options.seconds == 0 || demo->kills < 2;
    if (more && now_us - demo->last_kill_us >= every_us) {
        demo->last_kill_us = now_us;
        kill_node(demo, demo_cluster_leader(&demo->cluster));
    }
}

static void story(struct demo *demo)
{
    demo->started_us = demo->last_kill_us = demo->last_rate_us = dn_monotonic_us();
    while (!interrupted) {
        uint64_t now_us = dn_monotonic_us();
        demo->screen.seconds = (double)(now_us - demo->started_us) / 1e6;
        if (demo->options.seconds > 0 && demo->screen.seconds >= demo->options.seconds) {
            return;
        }
        demo_feed_turn(demo->feed);
        tend_nodes(demo);
        if (now_us - demo->last_click_us >= CLICK_EVERY_US) {
            demo->last_click_us = now_us;
            ada_clicks(demo);
        }
        kill_on_schedule(demo, now_us);
        watch_gap(demo);
        handle_key(demo);
        redraw(demo);
    }
}

static bool wait_ready(struct demo *demo)
{
    uint64_t until_us = dn_monotonic_us() + READY_TIMEOUT_US;
    while (!interrupted && dn_monotonic_us() < until_us) {
        for (unsigned i = 0; i < DEMO_NODES; i++) {
            if (demo->cluster.nodes[i].pid == 0 && !demo_node_reap(&demo->cluster, i)) {
                demo_node_spawn(&demo->cluster, i, NULL);
            }
        }
        if (demo_cluster_ready(&demo->cluster)) {
            return true;
        }
        usleep(50000);
    }
    return false;
}

/* Loads the catalogue with the client program, as a user would. */
static bool load_catalog(struct demo *demo)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        execl(demo->options.dunlin, demo->options.dunlin, "--server", demo->cluster.nodes[0].api, "catalog",
              "load", demo->options.catalog, (char *)NULL);
        _exit(127);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Every node must hold every acknowledged click exactly once. Returns the exit code. */
static int verify(struct demo *demo)
{
    struct demo_feed_stats stats;
    int result = 0;
    bool settled = demo_feed_finish(demo->feed, 10000);
    if (!wait_ready(demo)) {
        printf("the cluster did not come back within %u s; logs are in %s\n", READY_TIMEOUT_US / 1000000u,
               demo->options.folder);
        return 1;
    }
    demo_feed_stats(demo->feed, &stats);
    printf("\n%llu clicks sent, %llu acknowledged, %llu refused, %llu batches sent again, %u nodes killed, "
           "%u restarted\n",
           (unsigned long long)stats.sent, (unsigned long long)stats.acknowledged,
           (unsigned long long)stats.refused, (unsigned long long)stats.retried_batches, demo->kills,
           demo->restarts);
    if (demo->kills > 0) {
        printf("longest pause between acknowledged clicks after a kill: %.0f ms\n", demo->worst_gap_ms);
    }
    if (!settled) {
        printf("some clicks were still unanswered after 10 s\n");
        result = 1;
    }
    for (unsigned i = 0; i < DEMO_NODES; i++) {
        struct demo_check check;
        struct dn_error err = {0};
        if (demo_feed_check(demo->feed, i, &check, &err) != DN_OK) {
            printf("node-%u: not checked: %s\n", i + 1, err.message);
            result = 1;
            continue;
        }
        printf("node-%u: %llu users, %llu acknowledged clicks checked, %llu missing, %llu counted twice%s\n",
               i + 1, (unsigned long long)check.users, (unsigned long long)check.events,
               (unsigned long long)check.missing, (unsigned long long)check.twice,
               check.unread > 0 ? ", some users could not be read" : "");
        if (check.missing + check.twice + check.unread > 0) {
            result = EXIT_LOSS;
        }
    }
    return result;
}

int main(int argc, char **argv)
{
    static struct demo demo; /* large */
    struct dn_error err = {0};
    const struct argp parser = {option_list, parse_option, NULL, summary, NULL, NULL, NULL};
    int result = 1;

    demo.options.rate = 2000;
    argp_parse(&parser, argc, argv, 0, NULL, &demo.options);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    demo.screen.cluster = &demo.cluster;
    snprintf(demo.screen.user, sizeof demo.screen.user, "%s", user_name);
    demo.screen.terminal = isatty(STDOUT_FILENO) != 0;

    if (demo_cluster_start(&demo.cluster, demo.options.dunlind, demo.options.folder, &err) != DN_OK ||
        demo_feed_create(&demo.cluster, demo.options.events, demo.options.rate, &demo.feed, &err) != DN_OK) {
        fprintf(stderr, "dunlin-demo: %s\n", err.message);
        goto out;
    }
    if (!wait_ready(&demo)) {
        fprintf(stderr, "dunlin-demo: the nodes were not ready within %u s; their logs are in %s\n",
                READY_TIMEOUT_US / 1000000u, demo.options.folder);
        goto out;
    }
    printf("three nodes are up: %s %s %s\n", demo.cluster.nodes[0].api, demo.cluster.nodes[1].api,
           demo.cluster.nodes[2].api);
    fflush(stdout);
    if (!load_catalog(&demo)) {
        fprintf(stderr, "dunlin-demo: the catalogue %s could not be loaded\n", demo.options.catalog);
        goto out;
    }
    demo_feed_reset_gap(demo.feed);
    if (demo.screen.terminal) {
        prepare_terminal();
    }
    story(&demo);
    if (demo.screen.terminal) {
        demo_draw(&demo.screen);
        restore_terminal();
    }
    interrupted = 0;
    result = verify(&demo);
out:
    demo_feed_destroy(demo.feed);
    if (demo_cluster_stop(&demo.cluster) != DEMO_NODES && result == 0) {
        fprintf(stderr, "dunlin-demo: a node did not stop cleanly; logs are in %s\n", demo.options.folder);
        result = 1;
    }
    return result;
}
