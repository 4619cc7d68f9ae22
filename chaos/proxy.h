/* Proxy: the links of a cluster on loopback. Each node's advertised peer address is a port of ours; who
 * connects to it is told by the process that owns the connection's other end (/proc), since nodes do not say
 * who they are before the connection is encrypted. One thread moves all bytes. */
#ifndef DN_CHAOS_PROXY_H
#define DN_CHAOS_PROXY_H

#include "chaos/net.h"

#include <stddef.h>

struct proxy;

/* The thread runs until proxy_destroy. */
enum dn_code proxy_create(unsigned nodes, struct proxy **ret, struct dn_error *err);
void proxy_destroy(struct proxy *proxy); /* NULL allowed */
/* Opens the port for the node that really listens at `target` ("127.3.4.1:3456"), on the same host, and gives
 * its address. */
enum dn_code proxy_listen(struct proxy *proxy, unsigned node, const char *target, char *ret_address,
                          size_t size, struct dn_error *err);
/* Who a process is; pid 0: nobody. Any thread. */
void proxy_process(struct proxy *proxy, unsigned node, pid_t pid);
/* Bytes from one node to another, whoever dialled. Any thread; what waits is looked at anew. */
void proxy_set(struct proxy *proxy, unsigned from, unsigned to, const struct net_link *link);
void proxy_counts(struct proxy *proxy, struct net_counts *ret);

#endif
