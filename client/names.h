/* Names of the numbers in dunlin.v1, as programs read and print them. Pure; any thread. */
#ifndef DN_CLIENT_NAMES_H
#define DN_CLIENT_NAMES_H

#include <stdbool.h>

/* "view", "click", "cart", "buy" ("purchase" too), "like", "dislike", "play", "remove" ("cancel" too); false
 * for any other text. *ret_type is dunlin.v1.EventType's number. */
bool dn_event_type_parse(const char *text, int *ret_type);
/* "view" for 0 as well: that is how the server takes it. "?" for an unknown number. */
const char *dn_event_type_name(int type);
/* dunlin.v1.EventOutcome: "accepted", "duplicate", ...; "?" for an unknown number. */
const char *dn_event_outcome_name(int outcome);

#endif
