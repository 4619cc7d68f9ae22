/* What the writer and the reader of EDN share: which fields the :value of an operation has.
 *
 * A number above INT64_MAX has EDN's suffix N. Lists that are empty and shard, applied and version that are 0
 * are left out; :age-us is there when the age is known. An event is [id time], [id time :outcome] or, where
 * it has an offset, [id time offset]; a row is a list of its numbers. */
#ifndef DN_CHAOS_EDN_H
#define DN_CHAOS_EDN_H

#include "chaos/history.h"

#define CHAOS_EDN_LINE_MAX (1u << 20) /* bytes */

/* X(symbol, name) */
#define CHAOS_EDN_FIELDS(X)                                                                                  \
    X(USER, "user")                                                                                          \
    X(ITEM, "item")                                                                                          \
    X(LEVEL, "level")                                                                                        \
    X(EVENTS, "events")                                                                                      \
    X(TOKEN, "token")                                                                                        \
    X(FOUND, "found")                                                                                        \
    X(AGE, "age-us")                                                                                         \
    X(SHARD, "shard")                                                                                        \
    X(APPLIED, "applied")                                                                                    \
    X(VERSION, "version")                                                                                    \
    X(VALUE, "value")                                                                                        \
    X(NEAR, "near")                                                                                          \
    X(GROUPS, "groups")                                                                                      \
    X(ROWS, "rows")                                                                                          \
    X(NAME, "name")                                                                                          \
    X(WHAT, "what")

enum chaos_edn_field {
#define X(symbol, name) EDN_##symbol,
    CHAOS_EDN_FIELDS(X)
#undef X
        EDN_FIELD_COUNT,
};

/* Bits (1u << EDN_...) that the :value of an operation of this kind may have, and those it must have. A :get
 * must also have :value when it :found something. */
unsigned chaos_edn_allowed(enum chaos_f f, enum chaos_type type);
unsigned chaos_edn_required(enum chaos_f f, enum chaos_type type);
const char *chaos_edn_field_name(enum chaos_edn_field field);

#define CHAOS_OUTCOMES 9
/* "accepted"; outcome from 0 to CHAOS_OUTCOMES - 1, those of dunlin.v1.EventOutcome. */
const char *chaos_outcome_name(int outcome);

#endif
