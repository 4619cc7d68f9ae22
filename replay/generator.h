/* Generator: a clickstream and a catalogue out of a seed, shaped like the production load that the
 * authors of Serenade report (SIGMOD 2022): clicks per session p50 3, p90 10, p99 27; duration (of sessions
 * with two clicks or more) p50 248 s, p99 3,359 s; item popularity close to Zipf's law; users with tastes.
 *
 * Items belong to clusters. A cluster has a centre on the unit sphere, an item the centre plus noise, and the
 * cluster's category. A user likes a few clusters; a session mostly stays in one of them and comes back to
 * items it saw. The same options give the same bytes on the same machine. Memory: the sessions that overlap
 * in time, and 4 bytes a user; nothing grows with the number of sessions. One thread. */
#ifndef DN_REPLAY_GENERATOR_H
#define DN_REPLAY_GENERATOR_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define DN_GENERATOR_USERS_MAX 1000000000u
#define DN_GENERATOR_ITEMS_MAX 1000000000u
#define DN_GENERATOR_ACTIVE_MAX 8000000u /* sessions that overlap in time */
#define DN_GENERATOR_SESSION_CLICKS_MAX 1000u

struct dn_generator_options {
    uint32_t users, items;
    uint64_t sessions;
    uint64_t seed;
    uint32_t dim;
    int64_t start_ms;
    double rate_events_per_s; /* in event time; > 0 */
};

struct dn_generated_event {
    uint32_t user; /* 0..users-1 */
    uint32_t item; /* 0..items-1 */
    int type;      /* dunlin.v1.EventType */
    int64_t time_ms;
    uint64_t session; /* 0..sessions-1, by start time */
    uint32_t click;   /* position in the session, from 0 */
};

struct dn_generator;

enum dn_code dn_generator_create(const struct dn_generator_options *options, struct dn_generator **ret,
                                 struct dn_error *err);
void dn_generator_destroy(struct dn_generator *generator);

/* The next event in order of time (ties: by session). DN_OK, DN_NOT_FOUND at the end, DN_EXHAUSTED when too
 * many sessions overlap. */
enum dn_code dn_generator_next(struct dn_generator *generator, struct dn_generated_event *ret,
                               struct dn_error *err);
/* Sessions that had to start while another of the same user was going on (too few users for the rate). */
uint64_t dn_generator_overlaps(const struct dn_generator *generator);

struct dn_generated_item {
    uint32_t cluster;
    uint32_t category;
    double price;
    bool available;
};
/* Writes `dim` numbers, a unit vector. */
void dn_generator_item(const struct dn_generator *generator, uint32_t item, struct dn_generated_item *ret,
                       float *ret_vector);

#endif
