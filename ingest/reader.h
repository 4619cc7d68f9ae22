/* Streams that only one node can read (followed files, standard input), and what their *reader* says of them
 * in the replicated state: numbers in the places of a stream "@NODE" (NODE in hex), where no source's stream
 * can be. They move by ordinary stream records without events, and forward only.
 *
 * DN_READER_HEARD, in shard DN_READER_GROUP alone: a wall time at which the reader lived. It moves on all the
 * time, whether its streams bring something or not. A dead reader says nothing, and this is how it shows: who
 * leads a shard sees that the number does not move.
 *
 * DN_READER_STANDS, in each shard: twice a wall time, and one more while the reader's streams stand still
 * there (since then). It moves when that changes.
 *
 * DN_READER_LETTERS, in each shard: the dead letters of its streams with lower numbers are written, by the
 * reader, which alone has their bytes. */
#ifndef DN_INGEST_READER_H
#define DN_INGEST_READER_H

#include "ingest/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_READER_HEARD (UINT32_MAX - 1)
#define DN_READER_LETTERS (UINT32_MAX - 2)
#define DN_READER_STANDS (UINT32_MAX - 3)
#define DN_READER_GROUP 1u
#define DN_READER_NAME_MAX 18 /* with its zero */

/* Each node reads its own of this source. Any thread; pure, as all here. */
bool dn_source_is_local(const struct dn_source_config *config);
/* The node whose stream this is, and nobody else's; 0: all nodes can read it. */
uint64_t dn_stream_node(const char *stream);
void dn_reader_name(uint64_t node_id, char ret[DN_READER_NAME_MAX]);

#endif
