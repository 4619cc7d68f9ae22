/* Encrypted connections between the nodes of a cluster: one in each direction for each pair of nodes.
 *
 * A node dials every peer it knows and sends only on the connection it dialled; it receives on those it
 * accepted. A message goes into one of three queues of its peer; long ones are cut into fragments, so that an
 * urgent message waits behind at most one fragment of a bulk one.
 *
 * Handshake (shape: ephemeral Diffie-Hellman with a pre-shared key, as in Noise's NNpsk; libsodium): the
 * dialler sends a hello of one fixed size (version, key id, ephemeral X25519 key, nonce), the acceptor
 * answers with its own; both hash pre-shared key, shared secret and the whole transcript (keyed BLAKE2b) into
 * two directional keys; each proves its key by a confirmation that carries, encrypted, who it is: cluster id,
 * node name, raft id, incarnation. Then one crypto_secretstream_xchacha20poly1305 a direction, ended by its
 * final tag: a connection cut by a third party is told from one that was closed.
 *
 * What a stranger can do: occupy one of DN_TRANSPORT_UNPROVED_MAX fixed small slots until a timeout. Refusals
 * are counted in metrics by reason and logged, each kind at most once in a while.
 *
 * Thread: everything belongs to the loop's thread. */
#ifndef DN_TRANSPORT_TRANSPORT_H
#define DN_TRANSPORT_TRANSPORT_H

#include "base/error.h"
#include "base/metrics.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_TRANSPORT_MESSAGE_MAX (16u << 20)
#define DN_TRANSPORT_FRAGMENT_MAX (64u << 10)
#define DN_TRANSPORT_UNPROVED_MAX 64
#define DN_TRANSPORT_KEY_BYTES 32
#define DN_TRANSPORT_PEERS_MAX 32
#define DN_TRANSPORT_NAME_MAX 64 /* of a cluster, of a node */

struct uv_loop_s;
struct dn_transport;

/* Two live keys: `current` is used to dial, both are accepted; an id byte says which. Kept in locked memory
 * (sodium_malloc), readable only while a handshake is computed, never logged, compared in constant time. */
struct dn_transport_keys;
/* Reads key files: one key each, 64 hexadecimal digits or 44 base64 characters and a newline; mode must not
 * let group or others in. path_previous may be NULL. Both NULL: the open key (no secret: loopback or testing
 * only). */
enum dn_code dn_transport_keys_load(const char *path_current, const char *path_previous,
                                    struct dn_transport_keys **ret, struct dn_error *err);
bool dn_transport_keys_open(const struct dn_transport_keys *keys); /* true: no secret */
void dn_transport_keys_free(struct dn_transport_keys *keys);
/* Writes a new random key to a file that must not exist, mode 0600. */
enum dn_code dn_transport_key_create(const char *path, struct dn_error *err);

enum dn_transport_queue {
    DN_TRANSPORT_URGENT, /* heartbeats, votes, acknowledgements */
    DN_TRANSPORT_NORMAL, /* entries, forwarded proposals */
    DN_TRANSPORT_BULK,   /* snapshot chunks */
    DN_TRANSPORT_QUEUES,
};

/* How a connection ended, for elections: RESET_GONE says that the connection was reset or closed without the
 * final tag and that dialling again soon was refused: the process is gone, its machine is not. It may follow
 * a LOST of the same connection, when a first attempt was taken by a process that was dying. */
enum dn_transport_down { DN_TRANSPORT_DOWN_CLOSED, DN_TRANSPORT_DOWN_LOST, DN_TRANSPORT_DOWN_RESET_GONE };

struct dn_transport_peer_id {
    uint64_t raft_id; /* random, one for each data directory */
    char name[DN_TRANSPORT_NAME_MAX + 1];
    uint64_t incarnation; /* random, one for each process life */
    uint8_t level; /* what its program understands, as the owner numbers it; 0: a build before levels */
};

struct dn_transport_options {
    struct uv_loop_s *loop;
    const char *cluster_id;
    struct dn_transport_peer_id self;
    const char *bind_address;                /* "host:port"; port 0: any, see dn_transport_port */
    struct dn_transport_keys *keys;          /* belongs to the caller; outlives the transport */
    unsigned handshake_timeout_ms;           /* 0: 2000 */
    unsigned user_timeout_ms;                /* TCP_USER_TIMEOUT; 0: 500 */
    unsigned connect_timeout_ms;             /* 0: 1000 */
    size_t queue_bytes[DN_TRANSPORT_QUEUES]; /* most that waits for one peer; 0: 4, 32, 8 MiB */
    struct dn_metrics *metrics;              /* may be NULL */
    /* A whole message arrived. Its bytes are valid during the call. The sender has proved the cluster's key.
     */
    void (*on_message)(void *data, const struct dn_transport_peer_id *from, const uint8_t *bytes,
                       size_t length);
    /* Our connection to the peer is proved both ways (up), or ended. May be NULL. */
    void (*on_up)(void *data, const struct dn_transport_peer_id *peer);
    void (*on_down)(void *data, uint64_t raft_id, enum dn_transport_down how);
    /* The connection on which the peer sends to us ended or was replaced by a newer one: messages of its may
     * be missing (answers will not come). Once for each such connection. May be NULL. */
    void (*on_gap)(void *data, uint64_t raft_id);
    /* There is room again in a queue that refused. May be NULL. */
    void (*on_room)(void *data, uint64_t raft_id);
    /* A proved stranger dialled us: of our cluster, but not among our peers. Return false to drop it (its
     * messages are handed to on_message otherwise). NULL: dropped. */
    bool (*on_unknown)(void *data, const struct dn_transport_peer_id *peer);
    /* A proved node of our cluster dialled this address for another raft id, and was refused: it knows who
     * lived here before. May be NULL. */
    void (*on_mistaken)(void *data, const struct dn_transport_peer_id *peer);
    void *data;
};

enum dn_code dn_transport_start(const struct dn_transport_options *options, struct dn_transport **ret,
                                struct dn_error *err);
uint16_t dn_transport_port(const struct dn_transport *transport);
/* Sends what is queued as far as the sockets take it, a final tag on each connection, closes; `closed` is
 * called from the loop; then destroy. */
void dn_transport_close(struct dn_transport *transport, void (*closed)(void *data), void *data);
/* One that was never closed, or is not yet: its owner hears nothing more of it, keys and metrics may go at
 * once, and its memory goes in later turns of the loop. NULL: nothing. */
void dn_transport_destroy(struct dn_transport *transport);

/* Starts dialling `address` ("host:port"; resolved anew, off the loop, at every attempt) and keeps a
 * connection until dn_transport_peer_remove. raft_id 0: not known yet; the first peer that proves itself
 * under that address and name gives it (name may be NULL then too). An address that turns out to be ourselves
 * is not dialled again until the address changes. Called again with another address: the peer moved. The raft
 * id that answers must be the one asked for, otherwise the connection is refused and counted. */
enum dn_code dn_transport_peer_add(struct dn_transport *transport, uint64_t raft_id, const char *address,
                                   struct dn_error *err);
void dn_transport_peer_remove(struct dn_transport *transport, uint64_t raft_id);
/* Ends our connection to the peer without a final tag and dials anew: the other side learns by its on_gap
 * that something is missing. For a message that must not just be lost and found no room. */
void dn_transport_reset(struct dn_transport *transport, uint64_t raft_id);
bool dn_transport_peer_up(const struct dn_transport *transport, uint64_t raft_id);
/* The level that the peer gave when the connection which is up now was proved; 0: none is up, or it gave
 * none. */
uint8_t dn_transport_peer_level(const struct dn_transport *transport, uint64_t raft_id);

struct dn_transport_part {
    const void *bytes;
    size_t length;
};
/* Queues one message made of the parts (copied and encrypted as they go out; written at the end of the loop
 * turn, all that is queued together). False: not connected, or the queue is full: nothing was queued. */
bool dn_transport_send(struct dn_transport *transport, uint64_t raft_id, enum dn_transport_queue queue,
                       const struct dn_transport_part *parts, size_t part_count);
size_t dn_transport_queued(const struct dn_transport *transport, uint64_t raft_id,
                           enum dn_transport_queue queue);

#endif
