#include "chaos/workload_client.h"

#include "chaos/workload_class.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

void workload_begin(struct workload_client *client, struct chaos_op *op)
{
    op->type = CHAOS_INVOKE;
    op->process = client->process;
    atomic_fetch_add_explicit(&client->counts->of[op->f][CHAOS_INVOKE], 1, memory_order_relaxed);
    chaos_history_append(client->history, op);
}

void workload_end(struct workload_client *client, struct chaos_op *op, enum chaos_type type,
                  const struct workload_answer *answer)
{
    char error[sizeof answer->message + 32];
    op->type = type;
    op->token = NULL; /* part of the question */
    op->token_count = 0;
    op->error = NULL;
    if (type != CHAOS_OK) {
        if (answer->malformed)
            snprintf(error, sizeof error, CHAOS_MALFORMED "%s", answer->message);
        else
            snprintf(error, sizeof error, "status %d: %s", answer->status, answer->message);
        op->error = error;
    }
    atomic_fetch_add_explicit(&client->counts->of[op->f][type], 1, memory_order_relaxed);
    chaos_history_append(client->history, op);
    op->error = NULL;
    if (type == CHAOS_INFO)
        client->process += client->processes;
}

void workload_acknowledged(struct workload_client *client, uint32_t group)
{
    if (group < CHAOS_GROUPS_MAX)
        atomic_store_explicit(&client->counts->acknowledged_ns[group], chaos_history_now_ns(client->history),
                              memory_order_relaxed);
}

bool workload_number(const char *text, const char *prefix, uint64_t *ret_number)
{
    size_t length = strlen(prefix);
    int used = 0;
    uint64_t number;
    if (strncmp(text, prefix, length) != 0 || text[length] < '0' || text[length] > '9' ||
        sscanf(text + length, "%" SCNu64 "%n", &number, &used) != 1 || text[length + (size_t)used] != '\0')
        return false;
    *ret_number = number;
    return true;
}

void workload_vector(uint64_t item, float ret_vector[WORKLOAD_DIM])
{
    struct workload_random random = workload_random_make(item, 1);
    double length = 0;
    for (int i = 0; i < WORKLOAD_DIM; i++) {
        ret_vector[i] = (float)((double)workload_random_below(&random, 2000001) / 1e6 - 1);
        length += (double)ret_vector[i] * (double)ret_vector[i];
    }
    for (int i = 0; i < WORKLOAD_DIM; i++)
        ret_vector[i] = (float)((double)ret_vector[i] / sqrt(length));
}
