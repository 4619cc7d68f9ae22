/* Private to index: what the files of filters share. */
#ifndef DN_INDEX_FILTER_INTERNAL_H
#define DN_INDEX_FILTER_INTERNAL_H

#include "index/index.h"

/* The whole text as a finite decimal number. */
bool dn_filter_number(const char *text, size_t length, double *ret);
/* DN_EXHAUSTED, with a message that says what to change. */
enum dn_code dn_filter_no_room(struct dn_error *err);

#endif
