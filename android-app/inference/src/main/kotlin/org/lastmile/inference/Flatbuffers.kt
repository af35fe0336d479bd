package org.lastmile.inference

import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel

/** A table of a FlatBuffer, read without generated code. Source: flatbuffers.dev, "FlatBuffer internals". */
internal class FlatTable(private val bytes: ByteBuffer, private val position: Int) {
    private val vtable = position - bytes.getInt(position)

    /** The position of a field; 0 if the field has its default value. */
    private fun at(field: Int): Int {
        val slot = 4 + 2 * field
        if (slot >= bytes.getShort(vtable)) return 0
        val offset = bytes.getShort(vtable + slot).toInt() and 0xffff
        return if (offset == 0) 0 else position + offset
    }

    private fun target(at: Int) = at + bytes.getInt(at)

    fun byte(field: Int): Int = at(field).let { if (it == 0) 0 else bytes.get(it).toInt() and 0xff }

    fun long(field: Int): Long = at(field).let { if (it == 0) 0 else bytes.getLong(it) }

    fun table(field: Int): FlatTable? = at(field).let { if (it == 0) null else FlatTable(bytes, target(it)) }

    fun string(field: Int): String {
        val start = at(field).also { if (it == 0) return "" }.let(::target)
        val length = bytes.getInt(start)
        if (length < 0 || length > bytes.limit() - start - 4) throw IndexOutOfBoundsException("a string extends beyond the end of the file")
        return String(ByteArray(length) { bytes.get(start + 4 + it) }, Charsets.UTF_8)
    }

    fun tables(field: Int): List<FlatTable> = vector(field) { FlatTable(bytes, target(it)) }

    fun ints(field: Int): List<Int> = vector(field) { bytes.getInt(it) }

    private fun <T> vector(field: Int, element: (Int) -> T): List<T> {
        val start = at(field).also { if (it == 0) return emptyList() }.let(::target)
        val length = bytes.getInt(start)
        if (length < 0 || length > (bytes.limit() - start - 4) / 4) throw IndexOutOfBoundsException("a vector extends beyond the end of the file")
        return List(length) { element(start + 4 + 4 * it) }
    }

    companion object {
        /** Returns what [read] makes of the file's root table. Model files are untrusted: any invalid offset becomes one [InferenceException]. */
        fun <T> of(file: File, identifier: String, read: (FlatTable, ByteBuffer) -> T): T =
            try {
                RandomAccessFile(file, "r").use { open ->
                    // A FlatBuffer has at most 2 GB, and so has a mapping. Weights that follow it may extend beyond that.
                    val length = minOf(open.length(), Int.MAX_VALUE.toLong())
                    val bytes = open.channel.map(FileChannel.MapMode.READ_ONLY, 0, length).order(ByteOrder.LITTLE_ENDIAN)
                    val found = String(ByteArray(4) { bytes.get(4 + it) }, Charsets.ISO_8859_1)
                    if (found != identifier) throw InferenceException("not a $identifier file (its identifier is '$found')")
                    read(FlatTable(bytes, bytes.getInt(0)), bytes)
                }
            } catch (error: IndexOutOfBoundsException) {
                throw InferenceException("the file is truncated or corrupt (${error.message})", error)
            }
    }
}

/** Reads what the interpreter's API does not expose from a .tflite file. Source: tensorflow/lite/schema/schema.fbs. */
internal object TfliteFile {
    /** The number of operators in the first subgraph. */
    fun operatorCount(file: File): Int = FlatTable.of(file, "TFL3") { model, _ -> model.tables(2).first().tables(3).size }
}

/**
 * The method "forward" of a .pte file. ExecuTorch's Java API exposes neither shapes nor types, so they are read from the file.
 *
 * Source: executorch/schema/program.fbs, scalar_type.fbs and extended_header.h.
 */
internal class PteFile(
    val inputs: List<TensorInfo>,
    val outputs: List<TensorInfo>,
    val backends: Set<String>,
    /** Whether an input has a place in the program's own memory, to which every run copies it. */
    val copiesInput: Boolean
) {
    companion object {
        private const val TENSOR = 5 // in the union KernelTypes
        private const val ALLOCATION = 6 // in the table Tensor: allocation_info

        fun read(file: File): PteFile =
            FlatTable.of(file, "ET12") { program, bytes ->
                checkSegments(program, bytes, file.length())
                val plan =
                    program.tables(1).find { it.string(0) == "forward" }
                        ?: throw InferenceException("the program has no method 'forward'")
                val values = plan.tables(2)
                PteFile(
                    inputs = plan.ints(3).mapIndexed { i, value -> tensorInfo("input_$i", values[value]) },
                    outputs = plan.ints(4).mapIndexed { i, value -> tensorInfo("output_$i", values[value]) },
                    backends = plan.tables(7).map { it.string(0) }.toSet(),
                    copiesInput = plan.ints(3).any { values[it].table(1)?.table(ALLOCATION) != null }
                )
            }

        /** ExecuTorch does not check that the segments with the weights are complete: it would read past the end of the file and crash. */
        private fun checkSegments(program: FlatTable, bytes: ByteBuffer, fileBytes: Long) {
            val segments = program.tables(4)
            if (segments.isEmpty()) return
            val magic = String(ByteArray(4) { bytes.get(8 + it) }, Charsets.ISO_8859_1)
            if (magic != "eh00") throw InferenceException("the file has segments but no extended header")
            val begin = bytes.getLong(24).let { if (it < 0) Long.MAX_VALUE else it } // unsigned in the file
            val available = fileBytes - begin
            for (segment in segments) {
                val (offset, size) = segment.long(0) to segment.long(1)
                if (offset !in 0..available || size !in 0..available - offset) {
                    throw InferenceException("the file is truncated: a segment of $size bytes extends beyond its end")
                }
            }
        }

        /** The format has neither names nor scales, so a quantized tensor appears as plain int8. */
        private fun tensorInfo(name: String, value: FlatTable): TensorInfo {
            val tensor = value.table(1)
            if (value.byte(0) != TENSOR || tensor == null) throw InferenceException("$name is not a tensor")
            val dtype =
                when (val type = tensor.byte(0)) {
                    0 -> DType.UINT8
                    1 -> DType.INT8
                    3 -> DType.INT32
                    4 -> DType.INT64
                    6 -> DType.FLOAT32
                    else -> throw InferenceException("$name has scalar type $type; supported: ${DType.entries.joinToString { it.numpyName }}")
                }
            return TensorInfo(name, tensor.ints(2), dtype)
        }
    }
}
