/* Dead letters out of the replicated queue and into a file or a topic, at least once.
 *
 * One thread. On the leader of a shard it takes what waits in the shard's queue, fetches each message's
 * original bytes from its source, writes both, flushes, and proposes "written below n". A leader that dies
 * before that leaves the same letters to the next one.
 *
 * Of a stream that only one node can read (reader.h) that node writes the letters, whoever leads the shard,
 * and says so in the shard (DN_READER_LETTERS). The leader waits for its word, as long as
 * dn_dead_reader_wait_ms (dn_dead_reader_wait_full_ms, when the queue is half full); then, or when the node
 * is no member any more, it writes them without their bytes. */
#ifndef DN_INGEST_DEADLETTER_H
#define DN_INGEST_DEADLETTER_H

#include "base/error.h"
#include "ingest/ingest.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* What is written: one JSON object a line, the same in a file and in a topic:
 * {"shard":1,"number":17,"reason":"late","source":"clicks","stream":"clicks/web","partition":3,"offset":99,
 *  "judged_ms":..., "time_ms":..., "key":"base64", "bytes":"base64","gone":false}
 * "time_ms", "key" and "bytes" are null where the message has none. "bytes" null and "gone":true: the source
 * has the message no more. Where there are no bytes for another reason, "note" says it. (shard, number) names
 * a letter and tells repeats apart. deadletter_file.h reads it. */
#define DN_DEAD_FILE_MAX (256u << 20) /* a larger file is renamed to FILE.1, that to FILE.2, ... */
#define DN_DEAD_FILES_KEPT 8

/* Tests make them shorter, before they start. */
extern unsigned dn_dead_reader_wait_ms, dn_dead_reader_wait_full_ms;

struct dn_deadletters;

/* The options are ingest's. A file's folder must exist or be makeable: DN_IO. */
enum dn_code dn_deadletters_start(const struct dn_ingest_options *options, struct dn_deadletters **ret,
                                  struct dn_error *err);
/* Waits for what is under way, at most wait_ms; consensus still runs. After it target.propose and
 * target.leads are called no more. */
void dn_deadletters_stop(struct dn_deadletters *letters, unsigned wait_ms);
/* After consensus was stopped, which has completed every proposal, and before the shards are destroyed: the
 * thread may be in its last fetch (which is bounded), and look at them, until this returns. NULL allowed. */
void dn_deadletters_destroy(struct dn_deadletters *letters);
void dn_deadletters_wake(struct dn_deadletters *letters); /* any thread */
/* The last error, and since when (wall time, ms); 0: none. Any thread. */
int64_t dn_deadletters_trouble(struct dn_deadletters *letters, char ret_text[DN_SOURCE_TEXT_MAX]);

#endif
