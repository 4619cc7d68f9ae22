/* Net: what may be done to the links between the nodes, and the two kinds of network it is done on. Private
 * to the faults; others see chaos/cluster.h.
 *
 * A link is one direction between two nodes. On namespaces (net_switch.c) a link carries IP packets: each
 * node lives in a network namespace of its own whose only device is a TUN that this program holds the other
 * end of, so that no packet gets from one node to another but through our switch. Nothing has a name outside
 * the namespaces but one device, and all of it goes when this program's descriptors do. On the proxy
 * (proxy.c) a link carries the bytes of TCP connections: those cannot be lost, reordered or sent twice one by
 * one, only held, delayed, throttled, corrupted or cut for good.
 *
 * Clients' packets (place 0) are never touched. A stream's broker (place NET_BROKER) is in this program's own
 * namespace, behind an address of its own: its links to nodes can be cut, and no fault between nodes touches
 * them. */
#ifndef DN_CHAOS_NET_H
#define DN_CHAOS_NET_H

#include "base/error.h"
#include "chaos/history.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define NET_BROKER (CHAOS_NODES_MAX + 1)
#define NET_PLACES (NET_BROKER + 1) /* place 0: this program; place i: node i */

/* What is done to a link. All zero: nothing. *_pm: of a thousand packets, or of a thousand reads of a proxied
 * connection. */
struct net_link {
    bool cut;           /* nothing gets through; nobody is told */
    bool reset;         /* proxy only: connections are reset and refused, so that both sides know at once */
    unsigned delay_ms;  /* later than it would */
    unsigned jitter_ms; /* and up to this more, in order */
    unsigned rate_kib;  /* at most so many KiB a second; 0: no limit */
    unsigned loss_pm, duplicate_pm, reorder_pm; /* namespaces only. Reordered: sent without the delay */
    unsigned corrupt_pm; /* one bit of the payload is turned, and the TCP checksum made right again */
    unsigned break_pm;   /* proxy only: half of what was read is sent on, then the connection is reset */
};

struct net_counts {
    uint64_t sent, cut, lost, duplicated, reordered, corrupted, overflowed;
};

struct net_switch;

#define NET_BROKER_NUMBER 253

/* The runner's device, one namespace with one device a node, and the thread that switches. prefix: the first
 * three numbers of the addresses, "10.77.3"; the runner gets .254, and NET_BROKER_NUMBER for a broker; node i
 * gets .i. DN_UNAVAILABLE: this
 * machine or user cannot have that; err says why. */
enum dn_code net_switch_create(unsigned nodes, const char *prefix, struct net_switch **ret,
                               struct dn_error *err);
void net_switch_destroy(struct net_switch *sw); /* NULL allowed */
/* A descriptor of the node's namespace, for setns(2). Stays the switch's. */
int net_switch_space(const struct net_switch *sw, unsigned node);
void net_switch_set(struct net_switch *sw, unsigned from, unsigned to, const struct net_link *link);
void net_switch_counts(struct net_switch *sw, struct net_counts *ret);

/* Turns bit `bit` of the TCP payload of an IPv4 packet and puts its checksum right. False: no payload. */
bool net_packet_corrupt(uint8_t *packet, size_t length, uint32_t bit);

/* Makes a network namespace with `lo` and one TUN device `eth0` of that address ("10.77.3.1", /24), both up.
 * The caller's own namespace stays what it was. *ret_space, *ret_tun: to be closed by the caller. */
enum dn_code net_space_create(const char *address, int *ret_space, int *ret_tun, struct dn_error *err);
/* A TUN device of that name and address in the caller's namespace. */
enum dn_code net_tun_create(const char *name, const char *address, int *ret_tun, struct dn_error *err);
/* One more address (/24) for that device. */
enum dn_code net_address_add(const char *device, const char *address, struct dn_error *err);

#endif
