/* RPC: Raft's own messages as bytes, and Raft's configurations as bytes. Encoding only.
 *
 * A message between nodes (transport/transport.h) begins with one byte: MESSAGE_RAFT, then what is below, or
 * MESSAGE_FRAME, then one frame of wire.h. Numbers are little-endian.
 *
 *   u8 version (1), u8 type (libraft's numbers), u8 version of the Raft message, u8 0, u32 group,
 *   the message's fields in libraft's order; AppendEntries ends with u32 count, then for each entry
 *   u64 term, u8 type, u8 0, u16 0, u32 length, then all payloads; InstallSnapshot ends with the
 * configuration (u32 length first) and the snapshot's data.
 *
 * The transport has authenticated the bytes, but they come from another program, perhaps another version:
 * they are checked as if they came from anyone. */
#ifndef DN_CONSENSUS_RPC_H
#define DN_CONSENSUS_RPC_H

#include "base/buffer.h"
#include "base/error.h"

#include <raft.h>

#define MESSAGE_RAFT 1
#define MESSAGE_FRAME 2
#define RPC_ENTRIES_MAX 4096           /* entries in one message */
#define RPC_ENTRY_BYTES_MAX (9u << 20) /* bytes of one */
#define RPC_DATA_MAX (1u << 20)        /* snapshot data: a manifest */
#define RPC_ADDRESS_MAX 300
#define RPC_SERVERS_MAX 64
#define MARKER_VERSION 1 /* of what the journal keeps of a snapshot (raft_io.c writes it) */

/* Appends MESSAGE_RAFT and everything but the entries' payloads and the snapshot's data, which follow in
 * order. Of an AppendEntries only the first `entries` entries are described. */
void rpc_encode(const struct raft_message *message, uint32_t group, unsigned entries, struct dn_buffer *out);

/* Decodes what follows the byte MESSAGE_RAFT. On DN_OK the message's memory (entries and their one batch,
 * snapshot configuration and data) is libraft's kind: it goes to libraft, or to rpc_free. server_id and
 * server_address are left for the caller to set. */
enum dn_code rpc_decode(const uint8_t *bytes, size_t length, struct raft_message *ret, uint32_t *ret_group,
                        struct dn_error *err);
void rpc_free(struct raft_message *message);

/* How many of the entries go into one message: as many as stay below `bytes_max`, at least one. A change of
 * the configuration only comes first in its message: libraft 0.22.1 (replication.c, replicationAppend) notes
 * the index of the first new entry for it, wherever it stands, and a follower would never take it for
 * committed. */
unsigned rpc_entries_fit(const struct raft_append_entries *append, size_t bytes_max);

void rpc_configuration_encode(const struct raft_configuration *configuration, struct dn_buffer *out);
enum dn_code rpc_configuration_decode(struct dn_reader *reader, struct raft_configuration *ret,
                                      struct dn_error *err);

/* The payload of a RAFT_CHANGE entry, in libraft 0.22.1's own form (its configuration.c: u8 1, u64 count,
 * then for each server u64 id, address with its zero, u8 role; zeros up to a multiple of 8). */
void rpc_configuration_entry(const struct raft_configuration *configuration, struct dn_buffer *out);

#endif
