/* Why streams stand still, in the few bytes that a shard's state keeps of it. */
#include "ingest/internal.h"

#include <stdio.h>
#include <string.h>

#define CUT "..."
#define LONGEST (DN_SOURCE_MAX + DN_SOURCE_TEXT_MAX + 64)

/* What does not fit ends after a whole word, or at least a whole character, and "...". */
static void fit(const char *text, char ret[DN_STALL_REASON_MAX + 1])
{
    size_t length = strlen(text), end = DN_STALL_REASON_MAX - strlen(CUT);

    if (length <= DN_STALL_REASON_MAX) {
        memcpy(ret, text, length + 1);
        return;
    }
    while (end > DN_STALL_REASON_MAX / 2 && text[end] != ' ')
        end--;
    if (text[end] != ' ')
        end = DN_STALL_REASON_MAX - strlen(CUT);
    while (end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80) /* inside a character of UTF-8 */
        end--;
    memcpy(ret, text, end);
    memcpy(ret + end, CUT, strlen(CUT) + 1);
}

void ingest_reason(const char *what, uint32_t partition, const char *why, char ret[DN_STALL_REASON_MAX + 1])
{
    char text[LONGEST];

    if (partition == UINT32_MAX)
        snprintf(text, sizeof text, "%s: %s", what, why);
    else
        snprintf(text, sizeof text, "%s partition %u: %s", what, partition, why);
    fit(text, ret);
}

void ingest_reason_of(uint64_t node_id, const char *reason, char ret[DN_STALL_REASON_MAX + 1])
{
    char text[LONGEST];
    size_t prefix = ingest_reader_prefix(node_id, text, sizeof text);

    snprintf(text + prefix, sizeof text - prefix, "%s", reason);
    fit(text, ret);
}

void ingest_reason_count(char reason[DN_STALL_REASON_MAX + 1], unsigned partitions)
{
    char text[LONGEST];

    if (partitions < 2)
        return;
    snprintf(text, sizeof text, "%u partitions, the longest %s", partitions, reason);
    fit(text, reason);
}
