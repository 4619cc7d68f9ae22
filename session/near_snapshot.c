/* The tables of near.c in a snapshot: written from a capture (pool thread), read into a core that no reader
 * knows.
 *
 * Section NEAR, u32 count, one for each item that has tables: u32 item, u32 clicks; the row: u32 epoch, u32
 * hand, u64 after_sum, u64 near_sum, u16 cells, each u32 key, u32 after, u32 near; the visitors: u16 count,
 * each u32 place of the user in section USERS, oldest first. */
#include "session/core.h"
#include "session/near_private.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

#define SPILL_BYTES 65536u

/* ---- writing
 * ---------------------------------------------------------------------------------------------- */

static const struct dn_item_slot *slot_of(const struct dn_capture *capture, uint32_t id)
{
    return &capture->items[id / DN_ITEM_CHUNK]->slots[id % DN_ITEM_CHUNK];
}

bool dn_near_has_tables(const struct dn_item_slot *slot)
{
    const struct dn_visitors *visitors = atomic_load_explicit(&slot->visitors, memory_order_relaxed);

    return slot->state == DN_ITEM_LIVE && (atomic_load_explicit(&slot->clicks, memory_order_relaxed) != 0 ||
                                           atomic_load_explicit(&slot->row, memory_order_relaxed) != NULL ||
                                           (visitors != NULL && visitors->count > 0));
}

static void write_row(const struct dn_row *row, struct dn_buffer *out)
{
    static const struct dn_row NONE;

    if (row == NULL)
        row = &NONE;
    dn_buffer_u32(out, row->epoch);
    dn_buffer_u32(out, row->hand);
    dn_buffer_u64(out, row->after_sum);
    dn_buffer_u64(out, row->near_sum);
    dn_buffer_u16(out, (uint16_t)row->count);
    for (uint32_t i = 0; i < row->count; i++) {
        struct dn_cell cell = dn_cell_get(row, i);
        dn_buffer_u32(out, cell.key);
        dn_buffer_u32(out, cell.after);
        dn_buffer_u32(out, cell.near);
    }
}

static void write_visitors(const struct dn_visitors *visitors, const uint32_t *places, struct dn_buffer *out)
{
    uint32_t count = visitors == NULL ? 0 : visitors->count;

    dn_buffer_u16(out, (uint16_t)count);
    for (uint32_t n = count; n-- > 0;)
        dn_buffer_u32(out, places[visitors->users[dn_visitors_place(visitors, n)]]);
}

/* Of each user in section USERS, by id. */
static uint32_t *places_of(const struct dn_capture *capture)
{
    uint32_t *places = malloc((capture->user_bound + 1u) * sizeof *places), next = 0;
    bool have_memory = places != NULL;

    DN_ASSERT(have_memory);
    for (uint32_t id = 0; id < capture->user_bound; id++) {
        const struct dn_block *block = atomic_load_explicit(
            &capture->users[id / DN_USER_CHUNK]->slots[id % DN_USER_CHUNK], memory_order_acquire);
        places[id] = block != NULL ? next++ : DN_ID_NONE;
    }
    return places;
}

void dn_near_write(const struct dn_capture *capture, struct dn_sink *sink, struct dn_buffer *out)
{
    uint32_t *places = places_of(capture);
    uint32_t count = 0;

    for (uint32_t id = 0; id < capture->item_bound; id++)
        count += dn_near_has_tables(slot_of(capture, id));
    dn_buffer_u8(out, DN_SECTION_NEAR);
    dn_buffer_u32(out, count);
    for (uint32_t id = 0; id < capture->item_bound && sink->code == DN_OK; id++) {
        const struct dn_item_slot *slot = slot_of(capture, id);
        if (!dn_near_has_tables(slot))
            continue;
        dn_buffer_u32(out, id);
        dn_buffer_u32(out, atomic_load_explicit(&slot->clicks, memory_order_relaxed));
        write_row(atomic_load_explicit(&slot->row, memory_order_acquire), out);
        write_visitors(atomic_load_explicit(&slot->visitors, memory_order_acquire), places, out);
        if (out->length >= SPILL_BYTES || out->failed)
            (void)dn_sink_spill(sink, out);
    }
    free(places);
}

/* ---- reading
 * ---------------------------------------------------------------------------------------------- */

/* Which item a cell's key is: the bytes do not say, for it is no part of the state. */
struct keys {
    const struct dn_core *core;
    uint32_t *items; /* open addressing; item + 1 */
    uint32_t mask;
};

static uint32_t place_of(const struct keys *keys, uint32_t key)
{
    uint32_t at = key & keys->mask;

    while (keys->items[at] != 0 && dn_row_key(dn_item_hash(keys->core, keys->items[at] - 1)) != key)
        at = (at + 1) & keys->mask;
    return at;
}

static void keys_make(struct dn_core *core, struct keys *ret)
{
    uint32_t places = 64;

    while (places < 2 * core->item_bound)
        places *= 2;
    *ret = (struct keys){.core = core, .mask = places - 1};
    ret->items = dn_slab_zalloc(core->slab, places * sizeof *ret->items);
    for (uint32_t item = 0; item < core->item_bound; item++)
        ret->items[place_of(ret, dn_row_key(dn_item_hash(core, item)))] = item + 1;
}

/* False: the row has a cell of this key already, and would give either to whoever asks. places: of the row's
 * keys, each its cell's number + 1; twice as many as there may be cells. */
#define KEY_PLACES (2 * DN_NEAR_CELLS_MAX)
static bool key_is_new(uint16_t places[KEY_PLACES], const struct dn_row *row, uint32_t key, uint32_t at)
{
    uint32_t place = key % KEY_PLACES;

    for (; places[place] != 0; place = (place + 1) % KEY_PLACES)
        if (row->words[places[place] - 1] == key)
            return false;
    places[place] = (uint16_t)(at + 1);
    return true;
}

static bool read_row(struct dn_core *core, struct dn_source *in, const struct keys *keys,
                     struct dn_item_slot *slot)
{
    uint32_t epoch = dn_source_u32(in), hand = dn_source_u32(in);
    uint64_t after_sum = dn_source_u64(in), near_sum = dn_source_u64(in);
    uint32_t count = dn_source_u16(in);

    if (in->code != DN_OK || count > DN_NEAR_CELLS_MAX || hand >= DN_NEAR_CELLS_MAX ||
        epoch > core->meta.near_epoch)
        return false;
    if (count == 0) /* there is no empty row */
        return epoch == 0 && hand == 0 && after_sum == 0 && near_sum == 0;
    struct dn_row *row = dn_row_create(core, count);
    row->epoch = epoch;
    row->hand = (uint16_t)hand;
    row->after_sum = after_sum;
    row->near_sum = near_sum;
    uint16_t places[KEY_PLACES] = {0};
    bool good = true;
    for (uint32_t i = 0; i < count; i++) {
        struct dn_cell cell = {.key = dn_source_u32(in), .item = DN_CELL_ITEM_NONE};
        cell.after = dn_source_u32(in);
        cell.near = dn_source_u32(in);
        uint32_t item = keys->items[place_of(keys, cell.key)];
        if (item != 0)
            cell.item = item - 1;
        good = good && cell.after <= DN_CELL_AFTER_MAX && cell.near <= DN_CELL_NEAR_MAX &&
               (cell.after != 0 || cell.near != 0) && key_is_new(places, row, cell.key, i);
        dn_cell_put(row, i, &cell);
    }
    row->count = (uint16_t)count;
    dn_row_put(core, slot, row);
    return good && in->code == DN_OK;
}

static bool was_clicked(const struct dn_block *block, uint32_t item)
{
    for (size_t i = 0; i < block->event_count; i++)
        if (block->events[i].item == item)
            return true;
    return false;
}

/* seen: of each user, the last item of which they were a visitor, plus one. */
static bool read_visitors(struct dn_core *core, struct dn_source *in, uint32_t item, uint32_t *seen,
                          struct dn_item_slot *slot)
{
    uint32_t count = dn_source_u16(in);

    if (in->code != DN_OK || count > DN_NEAR_VISITORS_MAX)
        return false;
    if (count == 0)
        return true;
    struct dn_visitors *visitors = dn_visitors_create(core, count);
    dn_visitors_put(core, slot, visitors);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t user = dn_source_u32(in);
        if (in->code != DN_OK || user >= core->user_bound || seen[user] == item + 1 ||
            !was_clicked(dn_user_block(core, user), item))
            return false;
        seen[user] = item + 1;
        visitors->users[visitors->count++] = user;
        core->near.visitors++;
    }
    visitors->head = 0;
    return true;
}

static bool read_item(struct dn_core *core, struct dn_source *in, const uint32_t *names,
                      const struct keys *keys, uint32_t *seen, uint32_t *last)
{
    uint32_t name = dn_source_u32(in), clicks = dn_source_u32(in);

    if (in->code != DN_OK || name >= DN_ITEM_IDS || names[name] == 0 || names[name] <= *last)
        return false;
    *last = names[name];
    uint32_t item = names[name] - 1;
    struct dn_item_slot *slot = dn_item_writable(core, item);
    core->sum -= dn_item_slot_hash(slot);
    atomic_store_explicit(&slot->clicks, clicks, memory_order_relaxed);
    core->sum += dn_item_slot_hash(slot);
    if (!read_row(core, in, keys, slot) || !read_visitors(core, in, item, seen, slot))
        return false;
    core->sum += dn_near_hash(core, slot);
    return true;
}

bool dn_near_read(struct dn_core *core, struct dn_source *in, const uint32_t *names, uint32_t count)
{
    size_t size = (core->user_bound + 1u) * sizeof(uint32_t);
    uint32_t *seen = dn_slab_zalloc(core->slab, size), last = 0;
    struct keys keys;
    bool good = true;

    dn_near_show(core);
    keys_make(core, &keys);
    for (uint32_t i = 0; i < count && good; i++)
        good = read_item(core, in, names, &keys, seen, &last);
    dn_slab_free(core->slab, keys.items, (keys.mask + (size_t)1) * sizeof *keys.items);
    dn_slab_free(core->slab, seen, size);
    return good;
}
