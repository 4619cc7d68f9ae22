/* What the files of this room share. Private.
 *
 * Invariants
 * 1. Everything is touched by the loop's thread only.
 * 2. No memory is freed while one of its handles or requests is in the loop: an object goes in the close
 * callback of its last handle. Loops over peers and slots therefore survive whatever a callback of the owner
 * does.
 * 3. on_down follows each on_up exactly once; on_gap follows each proved accepted connection exactly once.
 * Those that an API call causes are told later, from the loop.
 * 4. At most DN_TRANSPORT_UNPROVED_MAX slots are unproved; an unproved connection owns its slot and nothing
 * else.
 * 5. A connection carries messages only after the handshake; after its first bad byte it carries nothing.
 *
 * Peer (dialled): WAITING -peer_dial-> RESOLVING -> CONNECTING -> PROVING -> UP -> WAITING or CONNECTING; UP
 * -> DRAINING when it is removed; SELF when the address turned out to be this node. peer_out.c. Slot
 * (accepted): FREE -> UNPROVED -> PROVED -> CLOSING -> FREE. peer_in.c. */
#ifndef DN_TRANSPORT_INTERNAL_H
#define DN_TRANSPORT_INTERNAL_H

#include "transport/frame.h"
#include "transport/handshake.h"
#include "transport/transport.h"

#include <netinet/in.h>
#include <uv.h>

#define COMPONENT "peer"

#define HANDSHAKE_TIMEOUT_MS 2000
#define USER_TIMEOUT_MS 500
#define CONNECT_TIMEOUT_MS 1000
#define DRAIN_TIMEOUT_MS 500 /* how long a closed connection may take to send what is queued */
#define BACKOFF_MIN_MS 50
#define BACKOFF_MAX_MS 500
#define HASTY_MS 5     /* between attempts that are reset while a process may be dying, */
#define HASTY_MAX 20   /* so many of them */
#define SETTLED_MS 100 /* a connection that lasted so long is dialled again at once, without a pause */
#define LOG_PAUSE_MS 10000
#define KEEPALIVE_S 1
#define LISTEN_BACKLOG 128
#define UNSENT_MAX (64 << 10) /* most that waits in the kernel, where urgent messages cannot overtake */
#define BATCH_MAX (256u << 10)
#define RECEIVE_MAX (256u << 10)
#define PROVED_MAX (2 * DN_TRANSPORT_PEERS_MAX)
#define SLOTS (DN_TRANSPORT_UNPROVED_MAX + PROVED_MAX)
#define HOST_MAX 256
#define REMOTE_MAX 72

_Static_assert(RECEIVE_MAX >= FRAME_MAX && BATCH_MAX >= FRAME_MAX, "a frame fits");

struct dn_transport;

/* ---- peers ------------------------------------------------------------------------------------------- */

enum peer_state {
    PEER_WAITING, /* for the timer */
    PEER_RESOLVING,
    PEER_CONNECTING,
    PEER_PROVING,
    PEER_UP,
    PEER_DRAINING,
    PEER_SELF,
    PEER_OVER, /* its handles are closing */
};

/* An on_down that is owed, and what decides its `how`. */
enum peer_owed { OWED_NOTHING, OWED_DIAL, OWED_LOST };

struct peer;

/* A dialled connection; outlives its place in the peer until its handle is closed. */
struct outbound {
    struct dn_transport *t;
    struct peer *peer; /* NULL: detached, closing */
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    bool writing;
    bool broken; /* a write failed; the reading side will say how it ended */
    struct handshake handshake;
    size_t in_length;
    uint8_t in[HANDSHAKE_STEP_MAX];
    uint8_t *out; /* BATCH_MAX, from UP on */
};

struct resolve {
    struct dn_transport *t;
    struct peer *peer; /* NULL: nobody waits any more */
    uv_getaddrinfo_t request;
};

/* A bare connection attempt: is the process that accepted our dialled connection still there? */
struct probe {
    struct dn_transport *t;
    struct peer *peer;
    uv_tcp_t tcp;
    uv_connect_t connect;
};

struct peer {
    struct dn_transport *t;
    struct peer *next;
    uint64_t raft_id; /* 0: not known yet */
    char host[HOST_MAX];
    uint16_t port;
    enum peer_state state;
    enum peer_owed owed;
    bool told_up; /* on_up was called, on_down not yet */
    bool suspect; /* it was up, was cut, and has not come up again: a refused attempt says that it is gone */
    unsigned hasty;
    uv_timer_t timer;
    struct outbound *conn;
    struct resolve *resolve;
    struct probe *probe;
    unsigned attempt, backoff_ms;
    bool last_valid;
    struct sockaddr_storage last; /* where the last connection that was up led */
    struct sockaddr_storage current;
    uint64_t up_since_ms, log_ms;
    struct frame_sender sender;
    bool refused[DN_TRANSPORT_QUEUES];
};

/* ---- slots ------------------------------------------------------------------------------------------- */

enum inbound_state { INBOUND_FREE, INBOUND_UNPROVED, INBOUND_PROVED, INBOUND_CLOSING };

struct inbound {
    struct dn_transport *t;
    enum inbound_state state;
    uv_tcp_t tcp;
    uint64_t since_ms;
    uint64_t order; /* the smallest is the oldest */
    struct handshake handshake;
    bool gap_owed;
    char remote[REMOTE_MAX];
    uint8_t *in; /* RECEIVE_MAX, once proved */
    size_t in_length;
    struct frame_receiver receiver;
};

/* ---- transport ---------------------------------------------------------------------------------------- */

struct dn_transport {
    struct dn_transport_options o;
    char cluster_id[DN_TRANSPORT_NAME_MAX + 1];
    struct handshake_party party;
    struct handshake_seen seen;
    uv_tcp_t listener;
    uv_prepare_t prepare;
    uv_idle_t idle;
    uv_timer_t timer;             /* unproved slots */
    bool accept_waits;            /* libuv holds a connection for which there was no slot */
    bool dirty;                   /* something was queued since the last flush */
    bool closing, closed, orphan; /* orphan: destroyed while handles were open */
    void (*closed_cb)(void *data);
    void *closed_data;
    size_t handles; /* and requests in the loop */
    uint16_t port;
    struct peer *peers;
    size_t peer_count;
    size_t unproved, proved, up;
    uint64_t next_order;
    uint64_t log_ms[REFUSED_COUNT];
    unsigned unlogged[REFUSED_COUNT];
    struct dn_counter *m_refused[REFUSED_COUNT], *m_sent, *m_received, *m_full;
    struct dn_gauge *m_up, *m_accepted;
    uint8_t scratch[HANDSHAKE_STEP_MAX]; /* unproved connections are read into it */
    struct inbound slots[SLOTS];
};

/* transport.c */
void transport_refused(struct dn_transport *t, enum refusal why, const char *remote, const char *who);
void transport_handle_closed(struct dn_transport *t); /* t may be gone afterwards */
uint64_t transport_now_ms(const struct dn_transport *t);
void transport_tune(const struct dn_transport *t, uv_tcp_t *tcp);
void transport_remote(const struct sockaddr *address, char ret_text[REMOTE_MAX]);
bool transport_numeric(const char *host, uint16_t port, struct sockaddr_storage *ret);
void transport_gauges(struct dn_transport *t);
void transport_count(struct dn_counter *counter, uint64_t n);
struct peer *transport_peer(const struct dn_transport *t, uint64_t raft_id); /* NULL: none; not 0, not OVER */

/* peer_out.c */
enum dn_code peer_new(struct dn_transport *t, uint64_t raft_id, const char *host, uint16_t port,
                      struct dn_error *err);
void peer_move(struct peer *peer, const char *host, uint16_t port);
/* Closes with a final tag, if it is up, as soon as what is queued is sent; then the peer is gone. */
void peer_finish(struct peer *peer);
void peer_reset(struct peer *peer);
void peer_flush(struct peer *peer);
/* The connection accepted from the peer was cut: is its process still there? */
void peer_probe(struct peer *peer);

/* peer_in.c */
void inbound_accept(struct dn_transport *t);
enum refusal inbound_admit(void *data, const struct dn_transport_peer_id *peer);
void inbound_drop(struct dn_transport *t, uint64_t raft_id);
void inbound_close_all(struct dn_transport *t);

#endif
