/* Bounded queue of pointers: many producers, one consumer, no locks (Vyukov's array queue). */
#ifndef DN_BASE_QUEUE_H
#define DN_BASE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>

struct dn_queue;

/* capacity is rounded up to a power of two. NULL when memory is out. */
struct dn_queue *dn_queue_create(size_t capacity);
void dn_queue_destroy(struct dn_queue *queue);

/* False when full: the caller answers RESOURCE_EXHAUSTED. Any thread. */
bool dn_queue_push(struct dn_queue *queue, void *item);

/* NULL when empty. Consumer thread only. */
void *dn_queue_pop(struct dn_queue *queue);

/* About how many items wait. Any thread. */
size_t dn_queue_length(const struct dn_queue *queue);

#endif
