package org.lastmile.app

import android.app.Activity
import android.content.Intent
import android.net.Uri
import android.os.Build
import android.os.Bundle
import android.view.View
import android.view.WindowManager
import android.widget.FrameLayout
import android.widget.RadioGroup

/** The content of a tab. */
interface Page {
    val view: View

    /** Saves the user's choices for the page that is created after a rotation or a restart. */
    fun save(state: Bundle)

    /** Called when the page is no longer shown. */
    fun close()
}

/**
 * The app's main screen, with three tabs.
 *
 * It uses framework views without AndroidX: three pages of standard widgets do not need it, and the APK and the build stay small.
 */
class MainActivity : Activity() {
    private val states = HashMap<Int, Bundle>()
    private var page: Page? = null
    private var stopWatching: () -> Unit = {}
    private lateinit var tabs: RadioGroup

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.main)
        keepScreenOnWhileMeasuring()
        for (tab in TABS) states[tab] = state?.getBundle("page_$tab") ?: Bundle()
        tabs = findViewById(R.id.tabs)
        tabs.setOnCheckedChangeListener { _, tab -> open(tab) }
        if (state == null) sharedImage(intent)?.let { states.getValue(R.id.tab_try).putString("image", it.toString()) }
        tabs.check(state?.getInt("tab", R.id.tab_try) ?: R.id.tab_try)
    }

    override fun onSaveInstanceState(state: Bundle) {
        super.onSaveInstanceState(state)
        page?.save(states.getValue(tabs.checkedRadioButtonId))
        state.putInt("tab", tabs.checkedRadioButtonId)
        for ((tab, saved) in states) state.putBundle("page_$tab", saved)
    }

    override fun onWindowFocusChanged(hasFocus: Boolean) {
        super.onWindowFocusChanged(hasFocus)
        if (hasFocus) Foreground.gained(this) else Foreground.lost(this)
    }

    override fun onPause() {
        Foreground.lost(this)
        super.onPause()
    }

    override fun onDestroy() {
        page?.close()
        stopWatching()
        super.onDestroy()
    }

    override fun onActivityResult(
        request: Int,
        result: Int,
        data: Intent?
    ) {
        super.onActivityResult(request, result, data)
        if (result != RESULT_OK) return
        if (request == PICK) (page as? TryPage)?.show(data?.data)
        if (request == SAVE) data?.data?.let { (page as? BenchmarkPage)?.saveTo(it) }
    }

    /** Independent of the page that is shown: a measurement goes on when the user opens another tab. */
    private fun keepScreenOnWhileMeasuring() {
        val show = {
            val flag = WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON
            if (Turn.taken) window.addFlags(flag) else window.clearFlags(flag)
        }
        val listener = { runOnUiThread(show) }
        Turn.onChange = listener
        show()
        val stop = Foreground.watch(this)
        stopWatching = {
            if (Turn.onChange === listener) Turn.onChange = {} // after a rotation the new activity listens
            stop()
        }
    }

    private fun open(tab: Int) {
        val container = findViewById<FrameLayout>(R.id.page)
        page?.let { it.save(states.getValue(openTab)) }
        page?.close()
        container.removeAllViews()
        openTab = tab
        val state = states.getValue(tab)
        val next =
            when (tab) {
                R.id.tab_benchmark -> BenchmarkPage(this, container, state)
                R.id.tab_accuracy -> AccuracyPage(this, container, state)
                else -> TryPage(this, container, state)
            }
        page = next
        container.addView(next.view)
    }

    private var openTab = R.id.tab_try

    /** The image that another app shared. Only content URIs are accepted: the sharing app must be able to read them itself. */
    private fun sharedImage(intent: Intent): Uri? {
        if (intent.action != Intent.ACTION_SEND) return null
        // The intent comes from another app and may contain anything.
        return attempt {
            @Suppress("DEPRECATION") // the replacement needs Android 13
            val uri: Uri? =
                if (Build.VERSION.SDK_INT >= 33) {
                    intent.getParcelableExtra(Intent.EXTRA_STREAM, Uri::class.java)
                } else {
                    intent.getParcelableExtra(Intent.EXTRA_STREAM)
                }
            uri?.takeIf { it.scheme == "content" }
        }.getOrNull()
    }

    companion object {
        /** Request code of [TryPage]'s image picker. */
        const val PICK = 1

        /** Request code of [BenchmarkPage]'s document. */
        const val SAVE = 2
        private val TABS = listOf(R.id.tab_try, R.id.tab_benchmark, R.id.tab_accuracy)
    }
}
