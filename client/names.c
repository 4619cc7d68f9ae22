#include "client/names.h"

#include "dunlin/v1/dunlin.pb-c.h"

#include <stddef.h>
#include <string.h>

static const struct {
    const char *name;
    int type;
} types[] = {
    {"view", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_VIEW},
    {"click", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CLICK},
    {"cart", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CART},
    {"buy", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_BUY},
    {"like", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_LIKE},
    {"dislike", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_DISLIKE},
    {"play", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_PLAY},
    {"remove", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_REMOVE},
    {"purchase", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_BUY},
    {"cancel", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_REMOVE},
};

bool dn_event_type_parse(const char *text, int *ret_type)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(text, types[i].name) == 0) {
            *ret_type = types[i].type;
            return true;
        }
    }
    return false;
}

const char *dn_event_type_name(int type)
{
    if (type == 0)
        return "view";
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].type == type)
            return types[i].name;
    return "?";
}

const char *dn_event_outcome_name(int outcome)
{
    static const char *const names[] = {"accepted", "duplicate", "late",    "window_full", "no_room",
                                        "erased",   "ahead",     "invalid", "unknown"};

    if (outcome < 0 || (size_t)outcome >= sizeof names / sizeof names[0])
        return "?";
    return names[outcome];
}
