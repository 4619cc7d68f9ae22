/* Retrieval's life: its thread decides when to build, maps or builds, publishes, and keeps the cache.
 *
 * States of the thread, in turn(): nothing to index -> (items with vectors, quiet or many) -> cache read
 * once, or first build -> published; then every POLL_MS: enough changes -> map the same rows anew (a replayed
 * or restored catalogue matches them again) -> still too many uncovered: build. A failure is logged, shown in
 * the status, and tried again after RETRY_US; searches stay right meanwhile, only slower. */
#include "base/clock.h"
#include "base/log.h"
#include "index/retrieval_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define POLL_MS 20
#define QUIET_US 200000u     /* no change for so long: a load is over */
#define CALM_US 2000000u     /* no change for so long: even a few uncovered items are worth a build */
#define CALM_PENDING 64u     /* so few are searched one by one at no cost worth a build */
#define PATIENCE_US 5000000u /* enough changes for so long: build even though they go on */
#define RETRY_US 5000000u
#define FIRST_BUILD_ITEMS 1000u
#define REBUILD_MIN 1000u
#define TINY_DIM 8u /* the factory string is tried on an index of so many numbers */

/* ---- publishing
 * --------------------------------------------------------------------------------------------------- */

static void publish(struct dn_retrieval *retrieval, struct dn_generation *fresh)
{
    struct dn_generation *old = atomic_exchange(&retrieval->current, fresh);
    uint64_t phase = atomic_fetch_add(&retrieval->phase, 1);
    /* Searches last well under a millisecond; later ones count themselves in on the other side. */
    while (atomic_load(&retrieval->inside[phase & 1]) != 0) {
        usleep(50);
    }
    dn_generation_free(old);
}

/* ---- when
 * ----------------------------------------------------------------------------------------------------------
 */

struct sight {
    uint64_t generation, changes, vectors, head;
    uint32_t dim;
};

static struct sight look(struct dn_retrieval *retrieval)
{
    dn_epoch_enter(retrieval->reader);
    const struct dn_state *state = dn_catalog_state(retrieval->catalog);
    struct sight sight = {
        .generation = state->generation,
        .changes = atomic_load_explicit(&state->changes, memory_order_acquire),
        .vectors = atomic_load_explicit(&state->vector_count, memory_order_acquire),
        .head = atomic_load_explicit(&state->log_head, memory_order_acquire),
        .dim = atomic_load_explicit(&state->dim, memory_order_acquire),
    };
    dn_epoch_leave(retrieval->reader);
    return sight;
}

static uint64_t changes_allowed(const struct dn_retrieval *retrieval, uint64_t rows)
{
    if (retrieval->rebuild_changes != 0) {
        return retrieval->rebuild_changes;
    }
    return rows / 20 > REBUILD_MIN ? rows / 20 : REBUILD_MIN;
}

static uint64_t pending_of(const struct dn_generation *g, const struct sight *sight)
{
    if (g == NULL || g->state_generation != sight->generation) {
        return sight->vectors;
    }
    return g->uncovered_count + (sight->head - g->since);
}

static bool is_quiet(const struct dn_retrieval *retrieval, uint64_t now)
{
    return now - retrieval->quiet_since_us >= QUIET_US;
}

/* Every search looks at each uncovered item: after a load that just missed the limit, a build takes them in.
 */
static bool is_calm(const struct dn_retrieval *retrieval, uint64_t now)
{
    return retrieval->rebuild_changes == 0 && now - retrieval->quiet_since_us >= CALM_US;
}

/* Rows of items that are not there cost little, and while a log replays they are not there *yet*: only when
 * that is over does it call for another index. */
static bool mostly_gone(const struct dn_generation *g)
{
    return g->live_rows < g->built->rows / 2;
}

static bool is_due(struct dn_retrieval *retrieval, const struct sight *sight, uint64_t now)
{
    if (sight->changes != retrieval->seen_changes || sight->generation != retrieval->seen_generation) {
        retrieval->seen_changes = sight->changes;
        retrieval->seen_generation = sight->generation;
        retrieval->quiet_since_us = now;
    }
    if (sight->vectors == 0 || (retrieval->failed_at_us != 0 && now - retrieval->failed_at_us < RETRY_US)) {
        return false;
    }
    bool quiet = is_quiet(retrieval, now);
    const struct dn_generation *g = atomic_load(&retrieval->current);
    if (g == NULL) {
        return quiet || sight->vectors >= FIRST_BUILD_ITEMS;
    }
    if (g->state_generation != sight->generation || (quiet && mostly_gone(g))) {
        return true;
    }
    uint64_t gone = g->live_rows > sight->vectors ? g->live_rows - sight->vectors : 0;
    uint64_t pending = pending_of(g, sight) + gone;
    if (pending >= CALM_PENDING && is_calm(retrieval, now)) {
        return true;
    }
    if (pending < changes_allowed(retrieval, g->built->rows)) {
        retrieval->crossed_since_us = 0;
        return false;
    }
    if (retrieval->crossed_since_us == 0) {
        retrieval->crossed_since_us = now;
    }
    return retrieval->rebuild_changes != 0 || quiet || pending >= g->built->rows / 4 ||
           now - retrieval->crossed_since_us >= PATIENCE_US;
}

/* ---- what
 * -----------------------------------------------------------------------------------------------------------
 */

/* The index in hand, or the cached one, on the catalogue as it is; DN_NOT_FOUND when it would not serve. */
static enum dn_code map_existing(struct dn_retrieval *retrieval, struct dn_built *built,
                                 struct dn_generation **ret, struct dn_error *err)
{
    bool quiet = is_quiet(retrieval, dn_monotonic_us());
    struct dn_generation *g;
    enum dn_code code = dn_generation_map(retrieval, retrieval->reader, built, &g, err);
    if (code != DN_OK) {
        return code;
    }
    uint64_t allowed = is_calm(retrieval, dn_monotonic_us()) ? CALM_PENDING - 1
                                                             : changes_allowed(retrieval, built->rows) / 2;
    bool serves = g->live_rows > 0 && g->uncovered_count <= allowed && !(quiet && mostly_gone(g));
    if (!serves) {
        dn_generation_free(g);
        return DN_NOT_FOUND;
    }
    *ret = g;
    return DN_OK;
}

static enum dn_code from_cache(struct dn_retrieval *retrieval, struct dn_generation **ret)
{
    struct dn_error err = {0};
    struct dn_built *built = NULL;
    retrieval->cache_tried = true;
    enum dn_code code = dn_cache_read(retrieval->cache_path, &built, &err);
    if (code != DN_OK) {
        if (code != DN_NOT_FOUND) {
            dn_warn("index", "%s; building it anew", err.message);
        }
        return code;
    }
    char wanted[DN_FACTORY_MAX];
    dn_factory_resolve(retrieval->factory, built->rows, wanted);
    if (strcmp(wanted, built->factory) != 0) {
        dn_info("index", "cached index is '%s', '%s' is wanted: building it anew", built->factory, wanted);
        code = DN_NOT_FOUND;
    } else {
        built->selects = dn_built_selects(built);
        if (retrieval->depth > 0) {
            dn_built_set_depth(built, retrieval->depth);
        } else if (built->depth > 0) {
            dn_faiss_set_depth(built->index, built->depth);
        }
        code = map_existing(retrieval, built, ret, &err);
    }
    dn_built_release(built); /* the generation holds its own reference */
    return code;
}

static void note(struct dn_retrieval *retrieval, const struct dn_generation *g, bool built_now)
{
    pthread_mutex_lock(&retrieval->lock);
    struct dn_retrieval_status *status = &retrieval->status;
    status->built_version = g->version;
    status->built_items = g->built->rows;
    status->loaded_from_cache = g->built->from_cache;
    status->builds += built_now ? 1 : 0;
    status->memory_bytes = g->built->file_bytes + dn_scan_bytes(g->built->scan) +
                           (uint64_t)g->built->rows * 32 + g->uncovered_count * 4;
    memcpy(status->factory, g->built->factory, sizeof status->factory);
    status->error[0] = '\0';
    pthread_mutex_unlock(&retrieval->lock);
}

static void note_failure(struct dn_retrieval *retrieval, const struct dn_error *err, uint64_t now)
{
    dn_warn("index", "index build failed: %s", err->message);
    retrieval->failed_at_us = now;
    pthread_mutex_lock(&retrieval->lock);
    snprintf(retrieval->status.error, sizeof retrieval->status.error, "%.120s", err->message);
    pthread_mutex_unlock(&retrieval->lock);
}

static void set_building(struct dn_retrieval *retrieval, bool building)
{
    pthread_mutex_lock(&retrieval->lock);
    retrieval->status.building = building;
    pthread_mutex_unlock(&retrieval->lock);
}

static void refresh(struct dn_retrieval *retrieval)
{
    struct dn_error err = {0};
    struct dn_generation *fresh = NULL;
    struct dn_generation *current = atomic_load(&retrieval->current);
    bool built_now = false;
    enum dn_code code = DN_NOT_FOUND;
    if (current != NULL) {
        code = map_existing(retrieval, current->built, &fresh, &err);
    } else if (retrieval->cache_path != NULL && !retrieval->cache_tried) {
        code = from_cache(retrieval, &fresh);
    }
    uint64_t started = dn_monotonic_us();
    if (code != DN_OK && code != DN_ABORTED) {
        code = dn_built_make(retrieval, retrieval->reader, &fresh, &err);
        built_now = code == DN_OK;
    }
    if (code == DN_CANCELLED || code == DN_ABORTED) {
        return; /* stopping, or another state was installed: the next turn sees it */
    }
    if (code != DN_OK) {
        note_failure(retrieval, &err, dn_monotonic_us());
        return;
    }
    retrieval->failed_at_us = 0;
    retrieval->crossed_since_us = 0;
    publish(retrieval, fresh);
    note(retrieval, fresh, built_now);
    dn_info("index", "%s '%s' over %u items, catalogue version %" PRIu64 ", depth %zu, %" PRIu64 " ms",
            built_now                  ? "built"
            : fresh->built->from_cache ? "loaded"
                                       : "mapped",
            fresh->built->factory, fresh->built->rows, fresh->version, fresh->built->depth,
            (dn_monotonic_us() - started) / 1000);
    if (built_now && retrieval->cache_path != NULL &&
        dn_cache_write(retrieval->cache_path, fresh->built, &err) != DN_OK) {
        dn_warn("index", "%s; the next start builds the index anew", err.message);
    }
}

static void turn(struct dn_retrieval *retrieval)
{
    struct sight sight = look(retrieval);
    if (is_due(retrieval, &sight, dn_monotonic_us())) {
        set_building(retrieval, true);
        refresh(retrieval);
        set_building(retrieval, false);
        sight = look(retrieval);
    }
    uint64_t pending = pending_of(atomic_load(&retrieval->current), &sight);
    pthread_mutex_lock(&retrieval->lock);
    retrieval->status.pending = pending;
    pthread_mutex_unlock(&retrieval->lock);
}

static void *run(void *data)
{
    struct dn_retrieval *retrieval = data;
    dn_faiss_one_thread();
    pthread_mutex_lock(&retrieval->lock);
    while (!retrieval->stop) {
        pthread_mutex_unlock(&retrieval->lock);
        turn(retrieval);
        pthread_mutex_lock(&retrieval->lock);
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += POLL_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        if (!retrieval->stop) {
            (void)pthread_cond_timedwait(&retrieval->wake, &retrieval->lock, &until);
        }
    }
    pthread_mutex_unlock(&retrieval->lock);
    return NULL;
}

/* ---- life
 * ----------------------------------------------------------------------------------------------------------
 */

static enum dn_code check_options(const struct dn_retrieval_options *options, struct dn_error *err)
{
    const char *factory = options->factory != NULL ? options->factory : "auto";
    if (factory[0] == '\0' || strlen(factory) >= DN_FACTORY_MAX) {
        return dn_fail(err, DN_INVALID, "the index factory string must have 1 to %u characters",
                       DN_FACTORY_MAX - 1);
    }
    if (!(options->depth >= 0) || options->depth > 1e6) {
        return dn_fail(err, DN_INVALID, "the search depth must be 0 (automatic) or a positive number");
    }
    if (strcmp(factory, "auto") == 0) {
        return DN_OK;
    }
    /* Product quantisers and transforms want dimensions of their own: widen before giving up. */
    FaissIndex *tiny = NULL;
    enum dn_code code = dn_factory_make(factory, TINY_DIM, &tiny, err);
    for (uint32_t dim = TINY_DIM * 2; code != DN_OK && dim <= DN_VECTOR_DIM_MAX; dim *= 2) {
        code = dn_factory_make(factory, dim, &tiny, NULL);
    }
    if (code == DN_OK) {
        faiss_Index_free(tiny);
    }
    return code;
}

static enum dn_code start_thread(struct dn_retrieval *retrieval, struct dn_error *err)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&retrieval->lock, NULL);
    pthread_cond_init(&retrieval->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int failed = pthread_create(&retrieval->thread, NULL, run, retrieval);
    if (failed != 0) {
        pthread_cond_destroy(&retrieval->wake);
        pthread_mutex_destroy(&retrieval->lock);
        return dn_fail(err, DN_EXHAUSTED, "starting the index thread: %s", strerror(failed));
    }
    return DN_OK;
}

enum dn_code dn_retrieval_create(const struct dn_catalog *catalog, struct dn_epoch *epoch,
                                 const struct dn_retrieval_options *options, struct dn_retrieval **ret,
                                 struct dn_error *err)
{
    enum dn_code code = check_options(options, err);
    if (code != DN_OK) {
        return code;
    }
    struct dn_retrieval *retrieval = calloc(1, sizeof *retrieval);
    if (retrieval == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "retrieval: out of memory");
    }
    retrieval->catalog = catalog;
    retrieval->epoch = epoch;
    retrieval->rebuild_changes = options->rebuild_changes;
    retrieval->depth = options->depth;
    snprintf(retrieval->factory, sizeof retrieval->factory, "%s",
             options->factory != NULL ? options->factory : "auto");
    if (options->cache_dir != NULL &&
        asprintf(&retrieval->cache_path, "%s/items.index", options->cache_dir) < 0) {
        retrieval->cache_path = NULL;
        code = dn_fail(err, DN_NO_MEMORY, "retrieval: out of memory");
        goto fail;
    }
    retrieval->reader = dn_epoch_register(epoch);
    if (retrieval->reader == NULL) {
        code = dn_fail(err, DN_EXHAUSTED, "retrieval: all %d reader places are taken", DN_EPOCH_READERS_MAX);
        goto fail;
    }
    code = start_thread(retrieval, err);
    if (code != DN_OK) {
        dn_epoch_unregister(retrieval->reader);
        goto fail;
    }
    *ret = retrieval;
    return DN_OK;
fail:
    free(retrieval->cache_path);
    free(retrieval);
    return code;
}

void dn_retrieval_destroy(struct dn_retrieval *retrieval)
{
    if (retrieval == NULL) {
        return;
    }
    pthread_mutex_lock(&retrieval->lock);
    retrieval->stop = true;
    pthread_cond_signal(&retrieval->wake);
    pthread_mutex_unlock(&retrieval->lock);
    pthread_join(retrieval->thread, NULL);
    dn_epoch_unregister(retrieval->reader);
    dn_generation_free(atomic_load(&retrieval->current));
    pthread_cond_destroy(&retrieval->wake);
    pthread_mutex_destroy(&retrieval->lock);
    free(retrieval->cache_path);
    free(retrieval);
}

void dn_retrieval_status(const struct dn_retrieval *retrieval, struct dn_retrieval_status *ret)
{
    pthread_mutex_t *lock = &((struct dn_retrieval *)(uintptr_t)retrieval)->lock;
    pthread_mutex_lock(lock);
    *ret = retrieval->status;
    pthread_mutex_unlock(lock);
}
