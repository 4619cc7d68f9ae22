/* It polls: that works on every file system, and a look at sixteen names costs microseconds. */
#include "ingest/source_file_watch.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

unsigned dn_file_glance_ms = 50; /* at the sizes of followed files: the most by which a line waits */
#define GLANCES_PER_SCAN 20      /* at everything: folders, rotated files */

struct dn_file_watch {
    struct dn_file_table *table;
    const struct dn_source_host *host;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop, now;
};

static struct timespec after_ms(unsigned ms)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_nsec += (long)ms * 1000000;
    time.tv_sec += time.tv_nsec / 1000000000;
    time.tv_nsec %= 1000000000;
    return time;
}

/* True: it shall stop. */
static bool wait_for_turn(struct dn_file_watch *watch, bool *ret_now)
{
    struct timespec until = after_ms(dn_file_glance_ms);
    bool stop;

    pthread_mutex_lock(&watch->lock);
    while (!watch->stop && !watch->now &&
           pthread_cond_timedwait(&watch->changed, &watch->lock, &until) == 0) {
    }
    stop = watch->stop;
    *ret_now = watch->now;
    watch->now = false;
    pthread_mutex_unlock(&watch->lock);
    return stop;
}

static void *run(void *data)
{
    struct dn_file_watch *watch = data;
    unsigned glances = 0;
    bool now = false;

    while (!wait_for_turn(watch, &now)) {
        enum dn_file_glance glance = dn_file_table_glance(watch->table);
        bool changed = now || glance != DN_FILE_SAME;

        if (now || glance == DN_FILE_OTHER || ++glances >= GLANCES_PER_SCAN) {
            changed = dn_file_table_scan(watch->table) || changed;
            glances = 0;
        }
        if (changed) {
            watch->host->wake(watch->host->data);
        }
    }
    return NULL;
}

enum dn_code dn_file_watch_start(struct dn_file_table *table, const struct dn_source_host *host,
                                 struct dn_file_watch **ret, struct dn_error *err)
{
    struct dn_file_watch *watch = calloc(1, sizeof(*watch));
    pthread_condattr_t attributes;
    int error;

    if (watch == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "no memory to watch files");
    }
    watch->table = table;
    watch->host = host;
    pthread_mutex_init(&watch->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&watch->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    error = pthread_create(&watch->thread, NULL, run, watch);
    if (error != 0) {
        pthread_cond_destroy(&watch->changed);
        pthread_mutex_destroy(&watch->lock);
        free(watch);
        return dn_fail(err, DN_EXHAUSTED, "no thread to watch files: %s", strerror(error));
    }
    *ret = watch;
    return DN_OK;
}

void dn_file_watch_stop(struct dn_file_watch *watch)
{
    if (watch == NULL) {
        return;
    }
    pthread_mutex_lock(&watch->lock);
    watch->stop = true;
    pthread_cond_signal(&watch->changed);
    pthread_mutex_unlock(&watch->lock);
    pthread_join(watch->thread, NULL);
    pthread_cond_destroy(&watch->changed);
    pthread_mutex_destroy(&watch->lock);
    free(watch);
}

void dn_file_watch_now(struct dn_file_watch *watch)
{
    pthread_mutex_lock(&watch->lock);
    watch->now = true;
    pthread_cond_signal(&watch->changed);
    pthread_mutex_unlock(&watch->lock);
}
