/* Sources.List and DeadLetters.List as operations of a history: how far the shards have read a stream, and
 * what they counted as dead. */
#include "chaos/workload_class.h"
#include "chaos/workload_client.h"
#include "chaos/workload_take.h"

#include "dunlin/v1/dunlin.pb-c.h"

#include <string.h>

#define PATH_SOURCES "/dunlin.v1.Sources/List"
#define PATH_DEAD_LETTERS "/dunlin.v1.DeadLetters/List"

/* ---- offsets ---------------------------------------------------------------------------------------- */

/* "SOURCE/TOPIC" or "SOURCE/FILE" */
static bool is_of(const char *stream, const char *source)
{
    size_t length = strlen(source);
    return strncmp(stream, source, length) == 0 && stream[length] == '/';
}

static const char *sources_wrong(const Dunlin__V1__ListSourcesResponse *response)
{
    if (!response || response->n_partitions > CHAOS_LIST_MAX)
        return "it is none, or has too many partitions";
    for (size_t i = 0; i < response->n_partitions; i++) {
        const Dunlin__V1__SourcePartition *partition = response->partitions[i];
        if (partition->shard == 0 || partition->shard >= CHAOS_GROUPS_MAX)
            return "a partition is of no shard";
        if (partition->known && partition->next_offset < 0)
            return "an offset is known and below 0";
    }
    return NULL;
}

enum chaos_type workload_take_offsets(struct workload_answer *answer, const char *stream,
                                      struct chaos_row *ret_rows, size_t *ret_count)
{
    Dunlin__V1__ListSourcesResponse *response =
        dunlin__v1__list_sources_response__unpack(NULL, answer->length, answer->bytes);
    const char *wrong = sources_wrong(response);
    size_t count = 0;
    for (size_t i = 0; !wrong && i < response->n_partitions; i++) {
        const Dunlin__V1__SourcePartition *from = response->partitions[i];
        if (!from->known || !is_of(from->stream, stream))
            continue;
        struct chaos_row *row = &ret_rows[count++];
        row->of[CHAOS_ROW_PARTITION] = from->partition;
        row->of[CHAOS_ROW_SHARD] = from->shard;
        row->of[CHAOS_ROW_NEXT_OFFSET] = (uint64_t)from->next_offset;
        row->of[CHAOS_ROW_EVENTS] = from->events;
    }
    *ret_count = count;
    if (wrong)
        workload_malformed(answer, "a list of sources: %s", wrong);
    dunlin__v1__list_sources_response__free_unpacked(response, NULL);
    return wrong ? CHAOS_FAIL : CHAOS_OK;
}

enum chaos_type workload_offsets(struct workload_client *client, unsigned node, const char *stream,
                                 struct chaos_row *ret_rows, size_t *ret_count)
{
    struct chaos_op op = {.f = CHAOS_OFFSETS, .node = node, .name = stream};
    Dunlin__V1__ListSourcesRequest request = DUNLIN__V1__LIST_SOURCES_REQUEST__INIT;
    struct workload_answer answer;
    workload_begin(client, &op);
    workload_call(&client->links, node, PATH_SOURCES, &request.base, client->deadline_ms, &answer);
    enum chaos_type type = workload_read_type(answer.status);
    if (type == CHAOS_OK)
        type = workload_take_offsets(&answer, stream, ret_rows, ret_count);
    if (type == CHAOS_OK) {
        op.rows = ret_rows;
        op.rows_count = *ret_count;
    }
    workload_end(client, &op, type, &answer);
    workload_answer_free(&answer);
    return type;
}

/* ---- dead letters ----------------------------------------------------------------------------------- */

enum chaos_type workload_take_dead_letters(struct workload_answer *answer, struct chaos_row *ret_rows,
                                           size_t *ret_count)
{
    Dunlin__V1__ListDeadLettersResponse *response =
        dunlin__v1__list_dead_letters_response__unpack(NULL, answer->length, answer->bytes);
    if (!response || response->n_shards > CHAOS_LIST_MAX) {
        workload_malformed(answer, "a list of dead letters: it is none, or has too many shards");
        dunlin__v1__list_dead_letters_response__free_unpacked(response, NULL);
        return CHAOS_FAIL;
    }
    for (size_t i = 0; i < response->n_shards; i++) {
        const Dunlin__V1__DeadLetterShard *from = response->shards[i];
        struct chaos_row *row = &ret_rows[i];
        *row = (struct chaos_row){
            .of = {[CHAOS_ROW_DEAD_SHARD] = from->shard, [CHAOS_ROW_WAITING] = from->waiting}};
        for (size_t k = 0; k < from->n_counts; k++) {
            bool undecodable = strcmp(from->counts[k]->reason, "undecodable") == 0;
            row->of[undecodable ? CHAOS_ROW_UNDECODABLE : CHAOS_ROW_REFUSED] += from->counts[k]->count;
        }
    }
    *ret_count = response->n_shards;
    dunlin__v1__list_dead_letters_response__free_unpacked(response, NULL);
    return CHAOS_OK;
}

enum chaos_type workload_dead_letters(struct workload_client *client, unsigned node,
                                      struct chaos_row *ret_rows, size_t *ret_count)
{
    struct chaos_op op = {.f = CHAOS_DEAD_LETTERS, .node = node};
    Dunlin__V1__ListDeadLettersRequest request = DUNLIN__V1__LIST_DEAD_LETTERS_REQUEST__INIT;
    struct workload_answer answer;
    request.max = 1; /* only the counts are of interest */
    workload_begin(client, &op);
    workload_call(&client->links, node, PATH_DEAD_LETTERS, &request.base, client->deadline_ms, &answer);
    enum chaos_type type = workload_read_type(answer.status);
    if (type == CHAOS_OK)
        type = workload_take_dead_letters(&answer, ret_rows, ret_count);
    if (type == CHAOS_OK) {
        op.rows = ret_rows;
        op.rows_count = *ret_count;
    }
    workload_end(client, &op, type, &answer);
    workload_answer_free(&answer);
    return type;
}
