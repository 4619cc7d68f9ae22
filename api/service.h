/* Services (private to the room): dunlin.v1 and grpc.health.v1 on the server core.
 *
 * A method checks its whole request before it does anything, and says in its error which field to change.
 * Reads go through dn_read_begin, which waits as the read level demands and then runs the method inside an
 * epoch. */
#ifndef DN_API_SERVICE_H
#define DN_API_SERVICE_H

#include "api/server.h"
#include "api/shown.h"
#include "api/token.h"
#include "dunlin/v1/dunlin.pb-c.h"
#include "recommend/model.h"

#include <string.h>

#define DN_EVENTS_PER_CALL_MAX 10000
#define DN_ITEMS_PER_CALL_MAX 1000
#define DN_ANONYMOUS_ITEMS_MAX 1000
#define DN_HASH_AT_MAX 1000
#define DN_SOURCE_ROWS_MAX 65536 /* of a node, in one answer */
#define DN_DEAD_LETTERS_PER_CALL_MAX 1000
#define DN_TIME_AHEAD_MAX_MS (24ll * 3600 * 1000)

struct dn_app {
    struct dn_api_options options;
    uint8_t token_key[DN_HASH_KEY_BYTES];
    uint64_t started_us;
    struct dn_recommend_world world;
    struct dn_model fixed_model; /* of variants that do not learn */
    struct dn_model_kept *kept;  /* one for each API thread */
    /* Requests by variant, the last: without one. NULL: there is no experiment. */
    struct dn_counter *variants[DN_VARIANTS_MAX + 1];
    struct dn_gauge *age[DN_GROUPS_MAX];
    struct dn_shown *shown;      /* NULL: nothing is kept */
    struct dn_shard_watch watch; /* of every shard, for it */
    struct dn_gauge *distinct, *coverage;
};

static inline const struct dn_app *dn_call_app(const struct dn_call *call)
{
    return call->thread->server->options.app;
}

/* ---- read.c -------------------------------------------------------------------------------------------- */

struct dn_read {
    void (*next)(struct dn_call *call, const struct dn_read *read, void *state);
    void *state;
    struct dn_token token; /* the request's; empty when it gave none */
    uint32_t group;        /* the first: the one that freshness names */
    uint64_t applied;      /* its applied index, taken before the data was read */
    uint32_t groups[DN_GROUPS_MAX];
    size_t group_count;
    /* The age of the oldest of them, taken before the data was read: a tick that is applied while a method
     * computes must not make its answer look newer than it is. */
    bool age_known;
    uint64_t age_us, looked_us; /* looked_us: on the clock of ages */
};

/* Runs next inside an epoch once groups are as new as options demand; answers the call itself when that
 * fails. SESSION waits for those of the groups that the token names; LINEARIZABLE waits for a barrier on
 * every one. options may be NULL: LOCAL, any age. */
void dn_read_begin(struct dn_call *call, const Dunlin__V1__ReadOptions *options, const uint32_t *groups,
                   size_t group_count,
                   void (*next)(struct dn_call *call, const struct dn_read *read, void *state), void *state);
/* In an epoch. */
void dn_read_freshness(const struct dn_call *call, const struct dn_read *read, Dunlin__V1__Freshness *ret);
/* How long ago that was (dn_shard_stalled), by this node's clock; 0 for 0. */
uint64_t dn_stalled_for_ms(int64_t since_ms);
/* The token as bytes in the call's arena. False: answered (memory). */
bool dn_token_give(struct dn_call *call, const struct dn_token *token, ProtobufCBinaryData *ret);

/* ---- check.c: each answers the call and returns false when the request is not good ------------------------
 */

bool dn_check_id(struct dn_call *call, const char *field, const char *id);
bool dn_check_k(struct dn_call *call, uint32_t k);
bool dn_check_vector(struct dn_call *call, const float *vector, size_t dim);
/* In an epoch (it looks at the catalogue). `field` is the filter's name in the request; filter may be NULL.
 */
bool dn_check_filter(struct dn_call *call, const char *field, const Dunlin__V1__Filter *filter,
                     struct dn_filter *ret);
/* Item number `number` of a request. */
bool dn_check_item(struct dn_call *call, size_t number, const Dunlin__V1__Item *item, struct dn_item *ret);
/* ret->bytes stays NULL; the weights are SET's. (svc_model.c) */
bool dn_check_model_change(struct dn_call *call, const Dunlin__V1__ChangeModelRequest *request,
                           struct dn_model_change *ret, struct dn_model *ret_weights);
/* The call needs more memory than its arena has. */
void dn_fail_memory(struct dn_call *call);

/* ---- rules.c ----------------------------------------------------------------------------------------- */

/* In an epoch. What is wrong is answered, with the field's name. */
bool dn_check_rules(struct dn_call *call, const Dunlin__V1__RecommendRequest *request, struct dn_rules *ret);
/* The variant of the request, by its own word or by its user; DN_VARIANT_NONE: none. */
bool dn_check_variant(struct dn_call *call, const Dunlin__V1__RecommendRequest *request, size_t *ret);
/* What the variant does where the request says nothing. */
void dn_variant_apply(const struct dn_app *app, size_t variant, struct dn_rules *rules,
                      struct dn_recommend_query *query, struct dn_recommend_world *world);

static inline struct dn_hash128 dn_user_hash(const struct dn_app *app, const char *user)
{
    return dn_keyed_hash128(app->options.hash_key, user, strlen(user));
}

/* ---- svc_members.c ------------------------------------------------------------------------------------ */

/* The configured name of a node; "" when it is not known here. */
const char *dn_member_name(const struct dn_app *app, uint64_t node_id);

/* ---- methods
 * ------------------------------------------------------------------------------------------------ */

void dn_svc_recommend(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_similar(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_trending(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_publish(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_session_get(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_session_delete(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_catalog_upsert(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_catalog_delete(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_catalog_get(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_status(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_list_members(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_change_member(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_source_list(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_source_set(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_dead_letter_list(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_model_get(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_model_change(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_ping(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_health_check(struct dn_call *call, const uint8_t *message, size_t length);
void dn_svc_health_watch(struct dn_call *call, const uint8_t *message, size_t length);
bool dn_svc_health_pull(struct dn_call *call);

#endif
