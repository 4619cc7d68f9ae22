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
#define WIRE_MESSAGE_MAX 512 /* bytes of error text in an answer */

enum wire_type {
    WIRE_PROPOSE = 1,
    WIRE_PROPOSE_ANSWER = 2,
    WIRE_BARRIER = 3,
    WIRE_BARRIER_ANSWER = 4,
    WIRE_STAMPS = 5,
};

struct wire_stamp {
    uint32_t group;
    uint64_t hash_index, hash;
};

struct wire_frame {
    enum wire_type type;
    uint64_t request;     /* all but STAMPS */
    uint32_t group;       /* PROPOSE, BARRIER, BARRIER_ANSWER */
    uint32_t left_ms;     /* PROPOSE: time left until its deadline */
    enum dn_code code;    /* answers */
    uint64_t index;       /* answers */
    const uint8_t *bytes; /* PROPOSE: record; PROPOSE_ANSWER: result */
    size_t length;
    const char *message; /* PROPOSE_ANSWER: error text, not terminated */
    size_t message_length;
    uint64_t nonce, stamp_us; /* STAMPS */
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
