/* How compiled code reads and writes memory. native/compiler.py makes mypyc call these functions.

   A view is checked at each access, as Python does: a wrong index raises, and nothing is read or written
   outside. An access to a view of 64-bit words is an atomic load with acquire order, or a store with release
   order (C11). So what a ring's producer wrote before its counter is visible to a consumer that has read the
   counter, on every machine.

   Numbers are mypyc's tagged integers: the value times two, or a pointer with the lowest bit set. */

#ifndef GVTAP_ACCESS_H
#define GVTAP_ACCESS_H

#include <Python.h>
#include <CPy.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#define GVTAP_INLINE static inline __attribute__((always_inline, unused))
#define GVTAP_COLD static __attribute__((noinline, cold, unused))

/* --- failures and what is seldom: not inlined ---------------------------------------------------- */

GVTAP_COLD void gvtap_struct_error(const char *text)
{
    PyObject *module = PyImport_ImportModule("struct");
    PyObject *error = module ? PyObject_GetAttrString(module, "error") : NULL;
    if (error)
        PyErr_SetString(error, text);
    Py_XDECREF(error);
    Py_XDECREF(module);
}

/* The bytes of any object with a buffer. The caller holds the object, and runs no code that may move them. */
GVTAP_COLD char *gvtap_buffer(PyObject *object, Py_ssize_t *length, int writable)
{
    Py_buffer buffer;
    if (PyObject_GetBuffer(object, &buffer, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0)
        return NULL;
    char *bytes = buffer.buf;
    *length = buffer.len;
    PyBuffer_Release(&buffer);
    return bytes ? bytes : "";
}

GVTAP_COLD CPyTagged gvtap_get_slowly(PyObject *view, CPyTagged at)
{
    CPyTagged_INCREF(at);
    PyObject *index = CPyTagged_StealAsObject(at);
    PyObject *value = PyObject_GetItem(view, index);
    Py_DECREF(index);
    if (!value)
        return CPY_INT_TAG;
    if (!PyLong_Check(value)) {
        CPy_TypeError("int", value);
        Py_DECREF(value);
        return CPY_INT_TAG;
    }
    return CPyTagged_StealFromObject(value);
}

GVTAP_COLD char gvtap_set_slowly(PyObject *view, CPyTagged at, CPyTagged value)
{
    CPyTagged_INCREF(at);
    CPyTagged_INCREF(value);
    PyObject *index = CPyTagged_StealAsObject(at);
    PyObject *object = CPyTagged_StealAsObject(value);
    int failed = PyObject_SetItem(view, index, object);
    Py_DECREF(index);
    Py_DECREF(object);
    return failed ? 0 : 1;
}

GVTAP_COLD CPyTagged gvtap_large(uint64_t value)
{
    PyObject *object = PyLong_FromUnsignedLongLong(value);
    return object ? CPyTagged_StealFromObject(object) : CPY_INT_TAG;
}

/* --- views --------------------------------------------------------------------------------------- */

/* The view of a memoryview that is one contiguous dimension and not released; else NULL. */
GVTAP_INLINE Py_buffer *gvtap_view(PyObject *object)
{
#ifdef _Py_MEMORYVIEW_C /* a Python that hides these has to take the long way */
    const int flags = _Py_MEMORYVIEW_RELEASED | _Py_MEMORYVIEW_C;
    PyMemoryViewObject *view = (PyMemoryViewObject *)object;
    if (PyMemoryView_Check(object) && (view->flags & flags) == _Py_MEMORYVIEW_C
        && !(view->mbuf->flags & _Py_MANAGED_BUFFER_RELEASED) && view->view.ndim == 1)
        return &view->view;
#endif
    return NULL;
}

/* The bytes of any object with a buffer, as gvtap_buffer(): those of views and of bytes without a call. */
GVTAP_INLINE char *gvtap_bytes(PyObject *object, Py_ssize_t *length, int writable)
{
    Py_buffer *buffer = gvtap_view(object);
    if (likely(buffer && !(writable && buffer->readonly))) {
        *length = buffer->len;
        return buffer->buf;
    }
    if (!writable && PyBytes_CheckExact(object)) {
        *length = PyBytes_GET_SIZE(object);
        return PyBytes_AS_STRING(object);
    }
    return gvtap_buffer(object, length, writable);
}

/* Where ``size`` bytes at offset ``at`` of an object lie; NULL with an exception if they do not lie in it. */
GVTAP_INLINE CPyPtr gvtap_at(PyObject *object, CPyTagged at, Py_ssize_t size, char writable)
{
    Py_ssize_t length;
    char *bytes = gvtap_bytes(object, &length, writable);
    if (!bytes)
        return 0;
    size_t begin = (size_t)((Py_ssize_t)at >> 1);
    if (unlikely((Py_ssize_t)begin < 0)) /* counted from the end, as struct does */
        begin += (size_t)length;
    if (unlikely((at & 1) || size > length || begin > (size_t)(length - size))) {
        gvtap_struct_error("the bytes of a struct do not lie in the buffer");
        return 0;
    }
    return (CPyPtr)(bytes + begin);
}

/* The bytes of an object with exactly ``size`` of them. */
GVTAP_INLINE CPyPtr gvtap_all(PyObject *object, Py_ssize_t size)
{
    Py_ssize_t length;
    char *bytes = gvtap_bytes(object, &length, 0);
    if (!bytes)
        return 0;
    if (unlikely(length != size)) {
        gvtap_struct_error("the buffer has not the length of the struct");
        return 0;
    }
    return (CPyPtr)bytes;
}

/* view[at] of bytes or of 64-bit words. Other views, negative indices and lists take the long way. */
GVTAP_INLINE CPyTagged gvtap_get(PyObject *object, CPyTagged at)
{
    Py_buffer *buffer = gvtap_view(object);
    size_t index = (size_t)((Py_ssize_t)at >> 1);
    if (unlikely(!buffer || (at & 1) || index >= (size_t)buffer->shape[0]))
        return gvtap_get_slowly(object, at);
    if (buffer->itemsize == 1 && buffer->format[0] == 'B')
        return (CPyTagged)((unsigned char *)buffer->buf)[index] << 1;
    if (buffer->itemsize == 8 && buffer->format[0] == 'Q') {
        _Atomic uint64_t *word = (_Atomic uint64_t *)buffer->buf + index;
        uint64_t value = atomic_load_explicit(word, memory_order_acquire);
        return likely(value <= (uint64_t)CPY_TAGGED_MAX) ? value << 1 : gvtap_large(value);
    }
    return gvtap_get_slowly(object, at);
}

/* view[at] = value. */
GVTAP_INLINE char gvtap_set(PyObject *object, CPyTagged at, CPyTagged value)
{
    Py_buffer *buffer = gvtap_view(object);
    size_t index = (size_t)((Py_ssize_t)at >> 1);
    Py_ssize_t number = (Py_ssize_t)value >> 1;
    if (unlikely(!buffer || buffer->readonly || ((at | value) & 1) || number < 0
                 || index >= (size_t)buffer->shape[0]))
        return gvtap_set_slowly(object, at, value);
    if (buffer->itemsize == 8 && buffer->format[0] == 'Q') {
        _Atomic uint64_t *word = (_Atomic uint64_t *)buffer->buf + index;
        atomic_store_explicit(word, (uint64_t)number, memory_order_release);
        return 1;
    }
    return gvtap_set_slowly(object, at, value);
}

/* view[at] += value, for counters that only this process writes. */
GVTAP_INLINE char gvtap_add(PyObject *object, CPyTagged at, CPyTagged value)
{
    CPyTagged now = gvtap_get(object, at);
    if (unlikely((now | value) & 1)) {
        if (now == CPY_INT_TAG)
            return 0;
        CPyTagged sum = CPyTagged_Add(now, value);
        char done = gvtap_set_slowly(object, at, sum);
        CPyTagged_DECREF(now);
        CPyTagged_DECREF(sum);
        return done;
    }
    return gvtap_set(object, at, now + value);
}

/* Every access before this call comes before every access after it, also a store before a load. */
GVTAP_INLINE char gvtap_full_fence(void)
{
    atomic_thread_fence(memory_order_seq_cst);
    return 1;
}

/* --- calls on sockets: pipeline/system/socket_calls.py ------------------------------------------- */

/* The descriptor of a socket, or -1 with an exception. That of a closed one is an OSError, as in Python. */
static __attribute__((unused)) int gvtap_fd(PyObject *sock)
{
    int fd = PyObject_AsFileDescriptor(sock);
    if (fd < 0 && PyErr_ExceptionMatches(PyExc_ValueError)) {
        PyErr_Clear();
        errno = EBADF;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return fd;
}

/* setsockopt(). The numbers are small, and none of these options can block. */
static __attribute__((unused)) char gvtap_option(
    PyObject *sock, int level, int option, const void *value, socklen_t size)
{
    int fd = gvtap_fd(sock);
    if (fd < 0)
        return 0;
    if (setsockopt(fd, level, option, value, size) == 0)
        return 1;
    PyErr_SetFromErrno(PyExc_OSError);
    return 0;
}

GVTAP_INLINE char gvtap_set_option(PyObject *sock, CPyTagged level, CPyTagged option, CPyTagged value)
{
    int number = (int)((Py_ssize_t)value >> 1);
    return gvtap_option(
        sock, (int)((Py_ssize_t)level >> 1), (int)((Py_ssize_t)option >> 1), &number, sizeof(number));
}

GVTAP_INLINE char gvtap_set_linger(PyObject *sock, CPyTagged on)
{
    struct linger linger = {.l_onoff = on != 0, .l_linger = 0};
    return gvtap_option(sock, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

/* 0 or 1; 2 with an exception. */
static __attribute__((unused)) char gvtap_has_peer(PyObject *sock)
{
    struct sockaddr_storage peer;
    socklen_t size = sizeof(peer);
    int fd = gvtap_fd(sock);
    if (fd < 0) {
        if (!PyErr_ExceptionMatches(PyExc_OSError))
            return 2;
        PyErr_Clear();
        return 0;
    }
    return getpeername(fd, (struct sockaddr *)&peer, &size) == 0;
}

/* The result of send() or recv(): a number of bytes, or -1 if the call would block. */
static __attribute__((unused)) CPyTagged gvtap_moved(ssize_t count)
{
    if (count < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            if (!PyErr_Occurred())
                PyErr_SetFromErrno(PyExc_OSError);
            return CPY_INT_TAG;
        }
        count = -1;
    }
    return (CPyTagged)count << 1;
}

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* Python ignores SIGPIPE */
#endif

/* Neither call blocks, so none releases the interpreter's lock. */
static __attribute__((unused)) CPyTagged gvtap_receive(PyObject *sock, PyObject *object)
{
    Py_ssize_t length;
    ssize_t count;
    int fd = gvtap_fd(sock);
    char *bytes = fd < 0 ? NULL : gvtap_bytes(object, &length, 1);
    if (!bytes)
        return CPY_INT_TAG;
    do
        count = recv(fd, bytes, (size_t)length, MSG_DONTWAIT);
    while (count < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    return gvtap_moved(count);
}

static __attribute__((unused)) CPyTagged gvtap_send(PyObject *sock, PyObject *object)
{
    Py_ssize_t length;
    ssize_t count;
    int fd = gvtap_fd(sock);
    char *bytes = fd < 0 ? NULL : gvtap_bytes(object, &length, 0);
    if (!bytes)
        return CPY_INT_TAG;
    do
        count = send(fd, bytes, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (count < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    return gvtap_moved(count);
}

/* --- entries of rings: pipeline/ipc/entries.py --------------------------------------------------- */

GVTAP_COLD char gvtap_entries_error(void)
{
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "the entries do not fit the ring");
    return 0;
}

/* Whether ``n`` items of ``size`` bytes from item ``at`` on lie in the view; then where they begin. */
GVTAP_INLINE char *gvtap_entries(PyObject *view, CPyTagged at, CPyTagged n, CPyTagged size)
{
    Py_buffer *buffer = gvtap_view(view);
    if (unlikely(!buffer || buffer->readonly || ((at | n | size) & 1)))
        return NULL;
    size_t length = (size_t)buffer->len, item = size >> 1, first = at >> 1, count = n >> 1;
    if (unlikely(!item || first > length / item || count > length / item - first))
        return NULL;
    return (char *)buffer->buf + first * item;
}

static __attribute__((unused)) char
gvtap_put_records(PyObject *view, CPyTagged at, PyObject *records, CPyTagged n, CPyTagged size)
{
    char *to = gvtap_entries(view, at, n, size);
    Py_ssize_t count = (Py_ssize_t)(n >> 1), length = (Py_ssize_t)(size >> 1);
    if (!to || count > PyList_GET_SIZE(records))
        return gvtap_entries_error();
    for (Py_ssize_t i = 0; i < count; i++, to += length) {
        PyObject *record = PyList_GET_ITEM(records, i);
        if (!PyBytes_CheckExact(record) || PyBytes_GET_SIZE(record) != length)
            return gvtap_entries_error();
        memcpy(to, PyBytes_AS_STRING(record), length);
    }
    return 1;
}

static __attribute__((unused)) char
gvtap_put_slots(PyObject *view, CPyTagged at, PyObject *slots, CPyTagged n)
{
    uint64_t *to = (uint64_t *)gvtap_entries(view, at, n, sizeof(uint64_t) << 1);
    Py_ssize_t count = (Py_ssize_t)(n >> 1);
    if (!to || count > PyList_GET_SIZE(slots))
        return gvtap_entries_error();
    for (Py_ssize_t i = 0; i < count; i++) {
        to[i] = PyLong_AsUnsignedLongLong(PyList_GET_ITEM(slots, i));
        if (to[i] == (uint64_t)-1 && PyErr_Occurred())
            return 0;
    }
    return 1;
}

static __attribute__((unused)) PyObject *gvtap_take_slots(PyObject *view, CPyTagged at, CPyTagged n)
{
    uint64_t *from = (uint64_t *)gvtap_entries(view, at, n, sizeof(uint64_t) << 1);
    if (!from) {
        gvtap_entries_error();
        return NULL;
    }
    PyObject *slots = PyList_New((Py_ssize_t)(n >> 1));
    for (Py_ssize_t i = 0; slots && i < (Py_ssize_t)(n >> 1); i++) {
        PyObject *slot = PyLong_FromUnsignedLongLong(from[i]);
        if (!slot)
            Py_CLEAR(slots);
        else
            PyList_SET_ITEM(slots, i, slot);
    }
    return slots;
}

/* The sum of the little-endian words of view[at:at+n] in ones' complement, so that it has 16 bits; zero only if
   all bytes are. Like a slice, it ends with the view. */
static __attribute__((unused)) CPyTagged gvtap_word_sum(PyObject *object, CPyTagged at, CPyTagged n)
{
    Py_ssize_t length;
    char *bytes = gvtap_bytes(object, &length, 0);
    if (!bytes)
        return CPY_INT_TAG;
    Py_ssize_t begin = (Py_ssize_t)at >> 1, left = (Py_ssize_t)n >> 1;
    if (unlikely(((at | n) & 1) || begin < 0 || left < 0)) {
        PyErr_SetString(PyExc_ValueError, "no such part of a view");
        return CPY_INT_TAG;
    }
    if (begin > length)
        begin = length;
    if (left > length - begin)
        left = length - begin;
    const char *from = bytes + begin;
    uint64_t sum = 0, word;
    for (; left >= 8; left -= 8, from += 8) {
        memcpy(&word, from, 8);
        sum += word;
        sum += sum < word;
    }
    word = 0;
    memcpy(&word, from, (size_t)left);
    sum += word;
    sum += sum < word;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    sum = (sum >> 8 | sum << 8) & 0xffff;
#endif
    return (CPyTagged)sum << 1;
}

/* view[begin:end] */
static __attribute__((unused)) PyObject *gvtap_part(PyObject *view, CPyTagged begin, CPyTagged end)
{
    Py_buffer *buffer = gvtap_view(view);
    if (unlikely(!buffer || ((begin | end) & 1) || begin > end || end >> 1 > (size_t)buffer->shape[0])) {
        PyErr_SetString(PyExc_ValueError, "no such part of a view");
        return NULL;
    }
    PyObject *made = PyMemoryView_FromObject(view);
    if (made) {
        buffer = PyMemoryView_GET_BUFFER(made);
        buffer->buf = (char *)buffer->buf + (Py_ssize_t)(begin >> 1) * buffer->itemsize;
        buffer->shape[0] = (Py_ssize_t)((end - begin) >> 1);
        buffer->len = buffer->shape[0] * buffer->itemsize;
    }
    return made;
}

/* --- fields of a struct, at an address that was checked ------------------------------------------- */

/* The value of a number that is no short tagged integer; 0 with an exception if it does not fit. */
GVTAP_COLD char gvtap_large_field(CPyTagged number, size_t size, uint64_t *value)
{
    if (size == sizeof *value && (number & 1)) {
        CPyTagged_INCREF(number);
        PyObject *object = CPyTagged_StealAsObject(number);
        *value = PyLong_AsUnsignedLongLong(object);
        Py_DECREF(object);
        if (*value != (uint64_t)-1 || !PyErr_Occurred())
            return 1;
        PyErr_Clear();
    }
    gvtap_struct_error("a number does not fit its field of a struct");
    return 0;
}

#if PY_BIG_ENDIAN
#define GVTAP_LE16(value) __builtin_bswap16(value)
#define GVTAP_LE32(value) __builtin_bswap32(value)
#define GVTAP_LE64(value) __builtin_bswap64(value)
#define GVTAP_BE16(value) (value)
#define GVTAP_BE32(value) (value)
#define GVTAP_BE64(value) (value)
#else
#define GVTAP_LE16(value) (value)
#define GVTAP_LE32(value) (value)
#define GVTAP_LE64(value) (value)
#define GVTAP_BE16(value) __builtin_bswap16(value)
#define GVTAP_BE32(value) __builtin_bswap32(value)
#define GVTAP_BE64(value) __builtin_bswap64(value)
#endif

/* Load a number of this type, or store one if it fits. largest: the largest that a short integer can be. */
#define GVTAP_FIELD(name, type, largest, order)                                                    \
    GVTAP_INLINE CPyTagged gvtap_load_##name(CPyPtr at, int64_t offset)                            \
    {                                                                                              \
        type value;                                                                                \
        memcpy(&value, (char *)at + offset, sizeof value);                                         \
        value = order(value);                                                                      \
        return likely(value <= (largest)) ? (CPyTagged)value << 1 : gvtap_large(value);            \
    }                                                                                              \
    GVTAP_INLINE char gvtap_store_##name(CPyPtr at, int64_t offset, CPyTagged number)              \
    {                                                                                              \
        uint64_t wide = number >> 1; /* a negative number is a large one here */                   \
        if (unlikely((number & 1) || wide > (largest)) && !gvtap_large_field(number, sizeof(type), &wide)) \
            return 0;                                                                              \
        type value = order((type)wide);                                                            \
        memcpy((char *)at + offset, &value, sizeof value);                                         \
        return 1;                                                                                  \
    }

GVTAP_FIELD(u8, uint8_t, UINT8_MAX, (uint8_t))
GVTAP_FIELD(u16le, uint16_t, UINT16_MAX, GVTAP_LE16)
GVTAP_FIELD(u16be, uint16_t, UINT16_MAX, GVTAP_BE16)
GVTAP_FIELD(u32le, uint32_t, UINT32_MAX, GVTAP_LE32)
GVTAP_FIELD(u32be, uint32_t, UINT32_MAX, GVTAP_BE32)
GVTAP_FIELD(u64le, uint64_t, (uint64_t)CPY_TAGGED_MAX, GVTAP_LE64)
GVTAP_FIELD(u64be, uint64_t, (uint64_t)CPY_TAGGED_MAX, GVTAP_BE64)

GVTAP_INLINE char gvtap_load_flag(CPyPtr at, int64_t offset)
{
    return ((char *)at)[offset] != 0;
}

GVTAP_INLINE char gvtap_store_flag(CPyPtr at, int64_t offset, char flag)
{
    ((char *)at)[offset] = flag;
    return 1;
}

GVTAP_INLINE PyObject *gvtap_load_bytes(CPyPtr at, int64_t offset, int64_t size)
{
    return PyBytes_FromStringAndSize((char *)at + offset, size);
}

/* Shorter bytes are followed by zeros, longer ones are cut: as struct does. */
GVTAP_INLINE char gvtap_store_bytes(CPyPtr at, int64_t offset, int64_t size, PyObject *bytes)
{
    Py_ssize_t length = PyBytes_GET_SIZE(bytes);
    if (length >= size)
        memcpy((char *)at + offset, PyBytes_AS_STRING(bytes), size);
    else {
        memcpy((char *)at + offset, PyBytes_AS_STRING(bytes), length);
        memset((char *)at + offset + length, 0, size - length);
    }
    return 1;
}

/* Zeros, as pad bytes of a struct are written. */
GVTAP_INLINE char gvtap_store_pad(CPyPtr at, int64_t offset, int64_t size)
{
    memset((char *)at + offset, 0, size);
    return 1;
}

/* New bytes, whose contents are written before anyone else sees them. */
GVTAP_INLINE PyObject *gvtap_new(int64_t size)
{
    return PyBytes_FromStringAndSize(NULL, size);
}

GVTAP_INLINE CPyPtr gvtap_bytes_at(PyObject *bytes)
{
    return (CPyPtr)PyBytes_AS_STRING(bytes);
}

#endif
