/* Wire: what travels between nodes besides Raft's own messages (rpc.h). Encoding only.
 *
 * A frame: u32 payload length, u8 type, u32 crc32c of type and payload, payload. The numbers of types and of
 * dn_code in answers are part of the protocol. */
#ifndef DN_CONSENSUS_WIRE_H
#define DN_CONSENSUS_WIRE_H

#include "base/buffer.h"
#include "base/error.h"
#include "consensus/consensus.h"

#include <stddef.h>
#include <stdint.h>

#define WIRE_CLUSTER_MAX 64
#define WIRE_FRAME_HEADER_BYTES 9
#define WIRE_FRAME_MAX (DN_RECORD_MAX + 4096u)
#define WIRE_MESSAGE_MAX 512        /* bytes of error text in an answer */
#define WIRE_PIECE_MAX (256u << 10) /* bytes of a chunk in one frame */

enum wire_type {
    WIRE_PROPOSE = 1,
    WIRE_PROPOSE_ANSWER = 2,
    WIRE_BARRIER = 3,
    WIRE_BARRIER_ANSWER = 4,
    WIRE_STAMPS = 5,
    WIRE_CHUNK_ASK = 6,  /* for one chunk of a snapshot */
    WIRE_CHUNK = 7,      /* a piece of it, in order */
    WIRE_CHUNK_GONE = 8, /* it cannot be had: code and message say why */
    WIRE_MEMBER = 9,     /* a change of membership, for the leader of group 0 */
    WIRE_MEMBER_ANSWER = 10,
    WIRE_ROUND = 11, /* a leader's: answered by STAMPS; see age.c */
    WIRE_LOST = 12,  /* a new connection's first: answers may be lost, ask again (link.c) */
};

enum wire_member_flags {
    WIRE_MEMBER_REPLICA = 1,
    WIRE_MEMBER_AGAIN = 2, /* it was asked for before, and may have happened */
    WIRE_MEMBER_FLAGS = 3
};

/* One group of a ROUND. index 0: the stamp is not confirmed for this group. */
struct wire_lead {
    uint32_t group;
    uint64_t term, index;
};

struct wire_stamp {
    uint32_t group;
    uint64_t hash_index, hash;
};

struct wire_frame {
    enum wire_type type;
    uint64_t request;     /* all but STAMPS, ROUND */
    uint32_t group;       /* PROPOSE, BARRIER, BARRIER_ANSWER, CHUNK_* */
    uint32_t left_ms;     /* PROPOSE, MEMBER: time left until its deadline */
    enum dn_code code;    /* answers */
    uint64_t index;       /* answers; CHUNK_ASK: which snapshot, with term and id */
    uint64_t term, id;    /* CHUNK_ASK */
    uint32_t chunk;       /* CHUNK_* */
    uint32_t offset;      /* CHUNK: of the piece in the chunk */
    const uint8_t *bytes; /* PROPOSE: record; PROPOSE_ANSWER: result; CHUNK: piece */
    size_t length;
    const char *message; /* PROPOSE_ANSWER, CHUNK_GONE, MEMBER_ANSWER: error text, not terminated */
    size_t message_length;
    uint64_t node_id;         /* MEMBER */
    uint8_t op, flags;        /* MEMBER: enum dn_member_op, enum wire_member_flags */
    uint64_t round;           /* ROUND, STAMPS */
    uint64_t nonce, stamp_us; /* STAMPS: the sender's; ROUND: the receiver's, given back */
    uint32_t lead_count;
    struct wire_lead leads[DN_GROUPS_MAX]; /* ROUND */
    uint32_t stamp_count;
    struct wire_stamp stamps[DN_GROUPS_MAX];
};

/* Appends header and payload. out->failed tells of memory or the maximum. */
void wire_frame_encode(const struct wire_frame *frame, struct dn_buffer *out);

/* Looks for one whole frame at the front of bytes. *ret_used is 0 when more bytes are needed. Pointers in
 * *ret point into bytes. DN_CORRUPT: the connection is to be closed. */
enum dn_code wire_frame_decode(const uint8_t *bytes, size_t length, struct wire_frame *ret, size_t *ret_used,
                               struct dn_error *err);

#endif
