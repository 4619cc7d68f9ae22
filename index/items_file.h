/* Inside the file readers: lines with a maximum, and the place that errors name. */
#ifndef DN_INDEX_ITEMS_FILE_H
#define DN_INDEX_ITEMS_FILE_H

#include "index/index.h"

#include <stdio.h>

#define DN_LINE_MAX (1u << 20) /* bytes in a line: far above what the item limits add to */

struct dn_lines {
    FILE *file;
    const char *path;
    uint64_t number; /* of the line in `bytes`, from 1 */
    char *bytes;     /* NUL-terminated, without its end of line */
    size_t length;
    size_t capacity;
};

enum dn_code dn_lines_open(struct dn_lines *lines, const char *path, struct dn_error *err);
void dn_lines_close(struct dn_lines *lines);
/* DN_NOT_FOUND at the end of the file. */
enum dn_code dn_lines_next(struct dn_lines *lines, struct dn_error *err);
/* Checks the item and hands it on; `where` names its place: "line 7", "row 3". */
enum dn_code dn_items_give(const char *path, const char *where, const struct dn_item *item,
                           dn_item_callback each, void *data, struct dn_error *err);
enum dn_code dn_items_read_npy(const char *path, const char *ids_path, dn_item_callback each, void *data,
                               struct dn_error *err);

#endif
