#include "ingest/reader.h"

#include <stdio.h>
#include <string.h>

#define HEX "0123456789abcdef"
#define NODE_DIGITS_MAX 16

_Static_assert(DN_PARTITION_CONTENTS < DN_READER_STANDS, "a word is no file's contents");

bool dn_source_is_local(const struct dn_source_config *config)
{
    return config->kind == DN_SOURCE_FILE && (config->follow || strcmp(config->list[0], "-") == 0);
}

/* "source/NAME@NODE.HASH" (source_file_names.h). A topic's name has no @. */
uint64_t dn_stream_node(const char *stream)
{
    const char *slash = strchr(stream, '/'), *at = strrchr(stream, '@');
    uint64_t node_id = 0;

    if (slash == NULL || at == NULL || at < slash) {
        return 0;
    }
    size_t digits = strspn(at + 1, HEX);
    const char *rest = at + 1 + digits;
    if (digits == 0 || digits > NODE_DIGITS_MAX || *rest != '.' || rest[1] == '\0' ||
        rest[1 + strspn(rest + 1, HEX)] != '\0') {
        return 0;
    }
    for (size_t i = 1; i <= digits; i++) {
        node_id = node_id << 4 | (uint64_t)(strchr(HEX, at[i]) - HEX);
    }
    return node_id;
}

void dn_reader_name(uint64_t node_id, char ret[DN_READER_NAME_MAX])
{
    snprintf(ret, DN_READER_NAME_MAX, "@%llx", (unsigned long long)node_id);
}
