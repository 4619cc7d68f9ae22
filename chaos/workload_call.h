/* Calls of one client: a connection to each node, made when first needed and given up when it stalls. */
#ifndef DN_CHAOS_WORKLOAD_CALL_H
#define DN_CHAOS_WORKLOAD_CALL_H

#include "chaos/history.h"
#include "client/client.h"

#include <protobuf-c/protobuf-c.h>

struct workload_nodes {
    unsigned count;                       /* those that are asked: numbers 1 to count */
    const char *api[CHAOS_NODES_MAX + 1]; /* "host:port" by number; [0] is unused; owned by the cluster */
};

/* One thread. Starts as zeros with nodes set. */
struct workload_links {
    const struct workload_nodes *nodes;
    struct dn_client *clients[CHAOS_NODES_MAX + 1];
};

struct workload_answer {
    int status;        /* gRPC's number; -1: the connection broke; WORKLOAD_NOT_SENT */
    char message[200]; /* the server's or ours, cut; "" when none */
    bool malformed;    /* it says OK and is no such answer: message says why */
    uint8_t *bytes; /* malloc'ed by workload_call, freed by workload_answer_free; NULL unless status is 0 */
    size_t length;
};

/* One call and its answer, within deadline_ms (to connect) and deadline_ms (to be answered). */
void workload_call(struct workload_links *links, unsigned node, const char *path,
                   const ProtobufCMessage *request, unsigned deadline_ms, struct workload_answer *ret);
void workload_answer_free(struct workload_answer *answer);

void workload_links_close(struct workload_links *links);

#endif
