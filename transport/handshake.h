/* Handshake: how two nodes prove to each other that they hold the cluster's key, and who they are. A pure
 * state machine: bytes in, bytes out; no sockets, no clock. Private to the room.
 *
 *   dialler -> acceptor   hello: magic, version, role, key id, ephemeral X25519 key, random, proof
 *   acceptor -> dialler   hello likewise (its proof covers both), header and identity encrypted for this
 * direction dialler -> acceptor   header and identity encrypted for the other direction acceptor -> dialler
 * one encrypted byte: admitted, or why not
 *
 * A proof is BLAKE2b keyed with the pre-shared key over what it covers: a stranger is dismissed before any
 * curve arithmetic. The two directional keys are BLAKE2b-512, keyed likewise, over shared secret and both
 * hellos; that an identity decrypts is the confirmation. Afterwards `send` and `receive` go on as the
 * connection's secretstreams. */
#ifndef DN_TRANSPORT_HANDSHAKE_H
#define DN_TRANSPORT_HANDSHAKE_H

#include "transport/keys.h"

#include <sodium.h>

#define HANDSHAKE_VERSION 2 /* of the handshake and of the frames after it */
#define HANDSHAKE_PROOF_BYTES 32
#define HANDSHAKE_HELLO_BYTES (8 + 32 + 32 + HANDSHAKE_PROOF_BYTES)
#define HANDSHAKE_IDENTITY_BYTES (2 * (1 + DN_TRANSPORT_NAME_MAX) + 3 * 8)
#define HANDSHAKE_CONFIRM_BYTES                                                                              \
    (crypto_secretstream_xchacha20poly1305_HEADERBYTES + HANDSHAKE_IDENTITY_BYTES +                          \
     crypto_secretstream_xchacha20poly1305_ABYTES)
#define HANDSHAKE_VERDICT_BYTES (1 + crypto_secretstream_xchacha20poly1305_ABYTES)
#define HANDSHAKE_STEP_MAX (HANDSHAKE_HELLO_BYTES + HANDSHAKE_CONFIRM_BYTES) /* most bytes in one step */

/* X(name, text of the metric's label, what the log says). Their numbers travel: only add at the end. */
#define REFUSALS(X)                                                                                          \
    X(NONE, "none", "nothing")                                                                               \
    X(KEY, "key", "another key")                                                                             \
    X(CLUSTER, "cluster", "a node of another cluster")                                                       \
    X(REPLAY, "replay", "a handshake that was seen before")                                                  \
    X(TAMPERED, "tampered", "bytes that fail authentication (altered on the way?)")                          \
    X(TIMEOUT, "timeout", "it did not prove itself in time")                                                 \
    X(UNKNOWN, "unknown", "a node that is not among our peers")                                              \
    X(MALFORMED, "malformed", "not the peer protocol")                                                       \
    X(WRONG_PEER, "wrong_peer", "another node than the one asked for")                                       \
    X(VERSION, "version", "another protocol version")                                                        \
    X(CROWDED, "crowded", "too many connections at once")

enum refusal {
#define X(name, label, text) REFUSED_##name,
    REFUSALS(X)
#undef X
        REFUSED_COUNT
};

const char *refusal_label(enum refusal refusal);
const char *refusal_text(enum refusal refusal);

/* Hellos that an acceptor has lately taken for good, by their proofs: none is taken twice. Only who holds the
 * key can push one out. */
#define HANDSHAKE_SEEN_MAX 1024

struct handshake_seen {
    size_t next;
    uint8_t proof[HANDSHAKE_SEEN_MAX][HANDSHAKE_PROOF_BYTES];
};

/* What a node brings to each of its handshakes; outlives them. */
struct handshake_party {
    const char *cluster_id;
    struct dn_transport_peer_id self;
    const struct dn_transport_keys *keys;
    struct handshake_seen *seen;
    /* The acceptor's last word on a dialler that proved key and cluster. NULL: admitted. */
    enum refusal (*admit)(void *data, const struct dn_transport_peer_id *peer);
};

enum handshake_state {
    HANDSHAKE_HELLO,   /* dialler: waits for hello and identity; acceptor: for the hello */
    HANDSHAKE_CONFIRM, /* acceptor: waits for the identity */
    HANDSHAKE_VERDICT, /* dialler: waits for the verdict */
    HANDSHAKE_DONE,
    HANDSHAKE_REFUSED,
};

struct handshake {
    enum handshake_state state;
    bool dialler, judged; /* judged: the refusal came from the other side */
    enum refusal refusal; /* HANDSHAKE_REFUSED: why */
    const struct handshake_party *party;
    void *data;                       /* for admit */
    uint64_t expected_raft_id;        /* dialler: whom it wants, 0: anybody */
    struct dn_transport_peer_id peer; /* valid when done, or once admit was asked */
    size_t got;
    uint8_t in[HANDSHAKE_STEP_MAX];
    uint8_t secret[crypto_box_SECRETKEYBYTES]; /* ephemeral; wiped when used */
    uint8_t hello[HANDSHAKE_HELLO_BYTES];      /* the dialler's */
    crypto_secretstream_xchacha20poly1305_state send, receive;
};

/* Starts; the dialler's first bytes (HANDSHAKE_HELLO_BYTES) are put into out. False: the key's memory could
 * not be opened. handshake_wipe ends each one that was started. */
bool handshake_dial(struct handshake *h, const struct handshake_party *party, uint64_t expected_raft_id,
                    uint8_t out[HANDSHAKE_STEP_MAX], size_t *ret_out);
void handshake_accept(struct handshake *h, const struct handshake_party *party, void *data);

/* Takes bytes of the other side, at most as many as the current step needs, and returns how many. What must
 * be sent now is put into out, also when the state has become HANDSHAKE_REFUSED. Call until done, refused or
 * empty. */
size_t handshake_input(struct handshake *h, const uint8_t *bytes, size_t length,
                       uint8_t out[HANDSHAKE_STEP_MAX], size_t *ret_out);
void handshake_wipe(struct handshake *h);

#endif
