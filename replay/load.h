/* Load: what the subcommands `publish` and `run` share: their options, and the loop that feeds a sender. */
#ifndef DN_REPLAY_LOAD_H
#define DN_REPLAY_LOAD_H

#include "base/error.h"
#include "replay/feed.h"
#include "replay/sender.h"

#include <argp.h>
#include <jansson.h>
#include <stdio.h>

enum dn_time_mode {
    DN_TIME_AS_IS, /* as the event says */
    DN_TIME_NOW,   /* when it is queued */
    DN_TIME_SHIFT, /* all moved by the same amount, so that the first one is now */
};

struct dn_load {
    char *addresses_text;
    const char *addresses[DN_SENDER_NODES_MAX];
    size_t address_count;
    const char *events;
    enum dn_feed_format format;
    enum dn_feed_key key;
    const char *id_prefix;
    size_t batch, in_flight;
    double rate_events_per_s; /* 0: as fast as it goes */
    enum dn_time_mode time_mode;
    const char *acked_path;
    unsigned give_up_ms, deadline_ms;
    bool json;
    FILE *acked;
};

/* To be put among the children of a subcommand's argp, with a struct dn_load as its input. */
extern const struct argp dn_load_argp;
void dn_load_default(struct dn_load *load);

/* Opens the file of acknowledged events for appending, when one is wanted. */
enum dn_code dn_load_open_acked(struct dn_load *load, struct dn_error *err);
enum dn_code dn_load_close_acked(struct dn_load *load, enum dn_code code, struct dn_error *err);
/* Notes an acknowledged event: a JSON line that `check` and any feed reads. */
void dn_load_note_outcome(struct dn_load *load, const struct dn_feed_event *event, int outcome);

/* Feeds all events to the sender and waits for the outcomes. wants_ask may be NULL. Ends early, without
 * failure, on SIGINT or SIGTERM: what was sent is finished. */
enum dn_code dn_load_pump(struct dn_load *load, struct dn_sender *sender,
                          bool (*wants_ask)(void *data, const struct dn_feed_event *event), void *data,
                          uint64_t total, double *ret_seconds, struct dn_error *err);

/* The summary of what was published, as lines or as members of a JSON object. */
void dn_load_print_publish(const struct dn_sender *sender, double seconds);
void dn_load_json_publish(json_t *object, const struct dn_sender *sender, double seconds);

#endif
