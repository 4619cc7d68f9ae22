/* Private to the evaluator (eval.h): the log in memory, the state it is applied to, places and what is
 * computed from them. */
#ifndef DN_RECOMMEND_EVAL_PRIVATE_H
#define DN_RECOMMEND_EVAL_PRIVATE_H

#include "base/hash.h"
#include "recommend/eval.h"
#include "recommend/learn.h"

#include <time.h>

/* ---- the log ----------------------------------------------------------------------------------------- */

struct dn_eval_event {
    int64_t time_ms;
    uint32_t item;
    uint8_t type;
};
struct dn_eval_session {
    struct dn_hash128 user;
    uint64_t first; /* of set->events */
    uint32_t count;
    uint32_t murmur; /* of its name: which shard it belongs to */
    int64_t start_ms, end_ms;
};
/* events[first .. first + length) are what is known, events[first + length] is what comes. */
struct dn_eval_case {
    uint64_t first;
    uint32_t length;
    uint32_t cluster; /* the session it is from */
};
struct dn_eval_item {
    const char *name; /* not NUL-terminated */
    uint64_t hash;
    uint16_t length;
    float price; /* with its first event; NaN: none */
};

struct dn_eval_set {
    struct dn_eval_facts facts;
    bool drop_last; /* the item just clicked is not recommended */
    struct dn_eval_event *events;
    size_t event_count;
    struct dn_eval_session *sessions; /* training by end, then test by start */
    size_t session_count, train_count;
    struct dn_eval_case *cases; /* clusters rise */
    size_t case_count, cluster_count;
    struct dn_eval_item *items;
    size_t item_count;
    uint32_t *item_table; /* by hash: item + 1; 0: empty */
    size_t item_mask;
    char **chunks; /* of names */
    size_t chunk_count, chunk_used;
};

#define DN_EVAL_NO_ITEM UINT32_MAX
uint32_t dn_eval_item_find(const struct dn_eval_set *set, uint64_t hash, const char *name, size_t length);
/* The item's number, a new one where it is not known; DN_EVAL_NO_ITEM: *err says why not. */
uint32_t dn_eval_item_add(struct dn_eval_set *set, const char *name, size_t length, struct dn_error *err);
/* Room for one more in an array that has `count`: *array may move. False: out of memory. */
bool dn_eval_grow(void **array, size_t count, size_t *capacity, size_t size);

/* A click as it was read. */
struct dn_eval_raw {
    int64_t time_ms;
    uint32_t group; /* session name */
    uint32_t item;
    uint32_t order; /* in the file */
    uint8_t type;
};
struct dn_eval_group {
    struct dn_hash128 user;
    uint32_t murmur;
};
struct dn_eval_raws {
    struct dn_eval_raw *list;
    size_t count, capacity;
    struct dn_eval_group *groups;
    size_t group_count, group_capacity;
    uint32_t *table; /* group + 1 */
    size_t mask;
};
/* Groups, collapses and splits; frees nothing of raws. */
enum dn_code dn_eval_set_build(struct dn_eval_set *set, const struct dn_eval_input *input,
                               struct dn_eval_raws *raws, struct dn_error *err);

/* A step of a run: a session's event. */
struct dn_eval_step {
    int64_t time_ms;
    uint32_t session;
    uint32_t position;
};
/* Events of the sessions from..to-1 in order of time, to be freed. NULL: out of memory. */
struct dn_eval_step *dn_eval_steps(const struct dn_eval_set *set, size_t from, size_t to, size_t *ret_count);

/* ---- the state --------------------------------------------------------------------------------------- */

struct dn_eval_state {
    const struct dn_eval_set *set;
    const struct dn_eval_options *options;
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_catalog *catalog;
    struct dn_retrieval *retrieval;
    struct dn_shard *shards[DN_EVAL_SHARDS_MAX];
    uint32_t shard_count;
    struct dn_arena *arena;
    struct dn_buffer record, answer;
    struct dn_learner *learner; /* NULL: nothing is learned */
    struct dn_model model;      /* the learner's */
    struct dn_recommend_world world;
    uint64_t index;
    int64_t offsets[DN_EVAL_SHARDS_MAX];
    uint32_t *slots;  /* of each item; UINT32_MAX: not in the catalogue yet */
    uint64_t *clicks; /* of each item */
    uint32_t *top;    /* the most clicked ones, best first */
    size_t top_count, top_max;
    size_t slot_max; /* slots are below */
    size_t events, refused, steps, used;
    double loss_sum, network_loss_sum;
    size_t loss_count, loss_from; /* of steps from that one on */
    double apply_s, learn_s;
};

enum dn_code dn_eval_state_open(struct dn_eval_state *state, const struct dn_eval_set *set,
                                const struct dn_eval_options *options, struct dn_error *err);
void dn_eval_state_close(struct dn_eval_state *state); /* also one that could not be opened whole */
/* Applies the event; learns from it where `learn`. */
enum dn_code dn_eval_take(struct dn_eval_state *state, const struct dn_eval_step *step, bool learn,
                          struct dn_error *err);
/* The session as the state has it, in the arena. The state's own thread, inside an epoch. */
enum dn_code dn_eval_session_read(struct dn_eval_state *state, size_t session, struct dn_arena *arena,
                                  struct dn_session_view *ret, struct dn_error *err);
/* A prefix that was not applied, as a session in the arena. Any thread. */
bool dn_eval_prefix(const struct dn_eval_state *state, const struct dn_eval_case *prefix,
                    struct dn_arena *arena, struct dn_session_view *ret);

/* ---- places ------------------------------------------------------------------------------------------ */

struct dn_eval_places {
    size_t count;                     /* predictions */
    uint32_t *clusters;               /* of each prediction */
    uint16_t *of[DN_EVAL_METHODS];    /* 1: first; 0: not among the largest k. NULL: not asked for */
    uint8_t *found[DN_EVAL_METHODS];  /* among the candidates */
    uint16_t *shown[DN_EVAL_METHODS]; /* the best place each slot ever had; 0: none */
    double cpu_s[DN_EVAL_METHODS];
    size_t slot_max, cluster_count;
    uint64_t hash;           /* of what was asked, in order */
    const uint16_t *against; /* the first method's of another run; NULL: none */
};
/* Opens a file for places; what it had stays until they are written. */
enum dn_code dn_eval_places_create(const char *path, FILE **ret, struct dn_error *err);
/* A method's places to the file, which is closed. */
enum dn_code dn_eval_places_write(const struct dn_eval_places *places, unsigned method, size_t k,
                                  const char *path, FILE *file, struct dn_error *err);
/* Those of another run of the same predictions, to be freed; places: count and hash alone are looked at. */
enum dn_code dn_eval_places_read(const struct dn_eval_places *places, size_t k, const char *path,
                                 uint16_t **ret, struct dn_error *err);
/* Means, intervals, coverage and windows into ret. False: out of memory. */
bool dn_eval_measure(const struct dn_eval_places *places, const struct dn_eval_options *options,
                     size_t catalog, struct dn_eval_result *ret);

static inline double dn_eval_cpu_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

#endif
