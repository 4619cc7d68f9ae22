/* The demo's screen. See demo.h. On a terminal the whole view is drawn again a few times a second; piped,
 * only the log lines and one line a second are printed. */
#include "replay/demo.h"

#include "base/clock.h"

#include <stdarg.h>
#include <string.h>

#define HOME "\033[H"
#define CLEAR_LINE "\033[K\n"
#define CLEAR_REST "\033[J"
#define BOLD "\033[1m"
#define DIM "\033[2m"
#define RED "\033[31m"
#define GREEN "\033[32m"
#define PLAIN "\033[0m"

void demo_say(struct demo_screen *screen, const char *format, ...)
{
    va_list args;
    char *line;
    if (screen->line_count == DEMO_LINES) {
        memmove(screen->lines[0], screen->lines[1], sizeof screen->lines - sizeof screen->lines[0]);
        screen->line_count--;
    }
    line = screen->lines[screen->line_count++];
    int n = snprintf(line, sizeof screen->lines[0], "%6.1f s  ", screen->seconds);
    va_start(args, format);
    vsnprintf(line + n, sizeof screen->lines[0] - (size_t)n, format, args);
    va_end(args);
    if (!screen->terminal) {
        printf("%s\n", line);
        fflush(stdout);
    }
}

static void draw_nodes(const struct demo_cluster *cluster)
{
    printf(BOLD "  node    process   leads   applied entries   age, ms    sessions" PLAIN CLEAR_LINE);
    for (unsigned i = 0; i < DEMO_NODES; i++) {
        const struct demo_node *node = &cluster->nodes[i];
        if (node->pid == 0) {
            printf("  node-%u  " RED "killed" PLAIN CLEAR_LINE, i + 1);
        } else if (!node->status_known) {
            printf("  node-%u  %-8d  starting" CLEAR_LINE, i + 1, (int)node->pid);
        } else {
            printf("  node-%u  " GREEN "%-8d" PLAIN "  %-6u  %-16llu  ", i + 1, (int)node->pid, node->leads,
                   (unsigned long long)node->applied);
            if (node->age_known) {
                printf("%-9.0f", (double)node->age_us / 1000.0);
            } else {
                printf("unknown  ");
            }
            printf("  %llu" CLEAR_LINE, (unsigned long long)node->users);
        }
    }
}

static void draw_lists(const struct demo_screen *screen)
{
    printf("  " BOLD "%-22s %-36s %-36s" PLAIN CLEAR_LINE, "last clicks of",
           "recommended before the last click", "recommended now");
    printf("  " DIM "%-22.22s %-36s %-36.36s" PLAIN CLEAR_LINE, screen->user, "", screen->answered_by);
    for (unsigned i = 0; i < DEMO_LIST; i++) {
        printf("  %-22.22s %-36.36s %-36.36s" CLEAR_LINE, i < screen->click_count ? screen->clicks[i] : "",
               i < screen->before_count ? screen->before[i] : "",
               i < screen->after_count ? screen->after[i] : "");
    }
}

void demo_draw(const struct demo_screen *screen)
{
    if (!screen->terminal) {
        printf("%6.1f s  %llu clicks acknowledged, %.0f/s, %u of %u groups led\n", screen->seconds,
               (unsigned long long)screen->feed.acknowledged, screen->clicks_per_s,
               screen->cluster->nodes[0].leads + screen->cluster->nodes[1].leads +
                   screen->cluster->nodes[2].leads,
               screen->cluster->groups);
        fflush(stdout);
        return;
    }
    printf(HOME BOLD
           "  dunlin" PLAIN ": three nodes, one clickstream" DIM
           "    keys: 1 2 3 kill -9 that node, k kill a leader, q quit" PLAIN CLEAR_LINE CLEAR_LINE);
    draw_nodes(screen->cluster);
    printf(CLEAR_LINE "  %.0f s   " BOLD "%llu" PLAIN
                      " clicks acknowledged   %.0f/s   %llu batches sent again" CLEAR_LINE CLEAR_LINE,
           screen->seconds, (unsigned long long)screen->feed.acknowledged, screen->clicks_per_s,
           (unsigned long long)screen->feed.retried_batches);
    draw_lists(screen);
    printf(CLEAR_LINE);
    for (unsigned i = 0; i < screen->line_count; i++) {
        printf("  %.110s" CLEAR_LINE, screen->lines[i]);
    }
    printf(CLEAR_REST);
    fflush(stdout);
}
