/* Streams that only one node can read (followed files, standard input), and what their *reader* says of them
 * in the replicated state: two numbers for each shard, in the places of a stream "@NODE" (NODE in hex), where
 * no source's stream can be. They move by ordinary stream records without events, and forward only.
 *
 * DN_READER_HEARD: wall time of which all that the reader's streams held is in the shard. It moves on while
 * the reader lives and none of its streams stands still, whether they bring something or not. A reader that
 * is dead says nothing, and this is how it shows: the shard's leader sees that the number does not move.
 *
 * DN_READER_LETTERS: the dead letters of its streams with lower numbers are written, by the reader, which
 * alone has their bytes. */
#ifndef DN_INGEST_READER_H
#define DN_INGEST_READER_H

#include "ingest/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_READER_HEARD (UINT32_MAX - 1)
#define DN_READER_LETTERS (UINT32_MAX - 2)
#define DN_READER_NAME_MAX 18 /* with its zero */

/* Each node reads its own of this source. Any thread; pure, as all here. */
bool dn_source_is_local(const struct dn_source_config *config);
/* The node whose stream this is, and nobody else's; 0: all nodes can read it. */
uint64_t dn_stream_node(const char *stream);
void dn_reader_name(uint64_t node_id, char ret[DN_READER_NAME_MAX]);

#endif
