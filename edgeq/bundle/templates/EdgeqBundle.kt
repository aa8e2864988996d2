// Written by edgeq for the bundle "@NAME@". Change the package to your own.
package edgeq

import android.app.ActivityManager
import android.content.Context
import java.io.File
import java.io.IOException

/** The bundle's files, copied once from the assets to where @RUNTIME@ can map them. */
object EdgeqBundle {
    const val NAME = "@NAME@"

    /** Memory that must be free before the model is loaded: @REQUIRED_TEXT@. */
    const val REQUIRED_BYTES = @REQUIRED_BYTES@

    /** Names the contents: an updated bundle goes to a directory of its own. */
    private const val VERSION = "@VERSION@"
    private const val ASSETS = "@ASSETS@"
    private const val COPY_BUFFER = 1 shl 20

    private val files = listOf(
@FILES@
    )

    /**
     * Copy what is not there yet and return the directory. Takes as long as copying the model does: call it off the
     * main thread. A file is complete or absent, whenever the process is killed.
     */
    fun install(context: Context): File {
        val bundle = File(context.filesDir, "edgeq/$NAME")
        bundle.listFiles()?.filter { it.name != VERSION }?.forEach { it.deleteRecursively() }
        val directory = File(bundle, VERSION)
        for ((path, bytes) in files) {
            val file = File(directory, path)
            if (file.length() != bytes) copy(context, path, file, bytes)
        }
        return directory
    }

    /** Throw IllegalStateException where the system could not hold the model now. */
    fun checkMemory(context: Context) {
        val manager = context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager
        val memory = ActivityManager.MemoryInfo()
        manager.getMemoryInfo(memory)
        val free = memory.availMem - memory.threshold
        check(!memory.lowMemory && free >= REQUIRED_BYTES) {
            "$NAME needs $REQUIRED_BYTES bytes of memory, $free are free"
        }
    }

    private fun copy(context: Context, path: String, file: File, bytes: Long) {
        val parent = checkNotNull(file.parentFile)
        if (!parent.isDirectory && !parent.mkdirs()) throw IOException("cannot create $parent")
        val temporary = File(parent, file.name + ".tmp")
        context.assets.open("$ASSETS/$path").use { input ->
            temporary.outputStream().use { output ->
                input.copyTo(output, COPY_BUFFER)
                output.fd.sync()
            }
        }
        if (temporary.length() != bytes) throw IOException("$path has ${temporary.length()} bytes, not $bytes")
        if (!temporary.renameTo(file)) throw IOException("cannot rename $temporary")
    }
}
