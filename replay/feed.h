/* Feed: clickstream events read one by one from a file or standard input, gzip or plain.
 *
 * jsonl: one object a line: {"user","item","type","time_ms","event_id","weight","session"}; user and item are
 *        required. An event without an id gets "line-N".
 * tsv:   a header `ts user session item type price`, tabs; ts in seconds. Ids are "line-N".
 * The key is what the server will know as the user: the user, or the session where the user is empty, or
 * always the session. One thread. */
#ifndef DN_REPLAY_FEED_H
#define DN_REPLAY_FEED_H

#include "base/error.h"
#include "base/text.h"

#include <stdbool.h>
#include <stdint.h>

#define DN_FEED_LINE_MAX 65536 /* bytes */

enum dn_feed_format { DN_FEED_AUTO, DN_FEED_JSONL, DN_FEED_TSV }; /* AUTO: by the first line */
enum dn_feed_key { DN_FEED_KEY_USER, DN_FEED_KEY_SESSION };

struct dn_feed_event {
    char key[DN_ID_MAX + 1];
    char item[DN_ID_MAX + 1];
    char event_id[DN_ID_MAX + 1];
    bool key_is_session; /* the key came from the session field */
    int type;            /* dunlin.v1.EventType; 0 when the line has none */
    int64_t time_ms;     /* 0 when the line has none */
    int64_t original_ms; /* the same; stays when a program changes time_ms */
    float weight;        /* 0 when the line has none */
};

struct dn_feed;

/* path "-": standard input. id_prefix is put before ids made from line numbers. */
enum dn_code dn_feed_open(const char *path, enum dn_feed_format format, enum dn_feed_key key,
                          const char *id_prefix, struct dn_feed **ret, struct dn_error *err);
void dn_feed_close(struct dn_feed *feed); /* NULL allowed */
/* DN_OK, DN_NOT_FOUND at the end, DN_INVALID with file and line, DN_IO. */
enum dn_code dn_feed_next(struct dn_feed *feed, struct dn_feed_event *ret, struct dn_error *err);

#endif
